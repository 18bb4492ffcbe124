"""A synthetic nuScenes that the unmodified devkit loads and scores: worlds, pictures, LiDAR, tables."""
