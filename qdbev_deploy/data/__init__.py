"""nuScenes sequences, a synthetic nuScenes, and the one definition of preprocessing. Import the modules themselves."""
