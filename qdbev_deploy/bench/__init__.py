"""The streaming harness: how fast a bundle runs, how steadily, at what cost; scenario, system and samples apart."""
