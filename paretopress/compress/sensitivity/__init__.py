"""Sensitivity: how much the loss rises when a layer, a channel group or a branch is compressed."""
