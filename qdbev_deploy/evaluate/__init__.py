"""Boxes to nuScenes scores: submissions, the official evaluator, streaming metrics, pictures.

Import the module that is needed; nothing is imported here, since the devkit and the drawing libraries are heavy.
"""
