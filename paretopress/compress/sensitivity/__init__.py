"""How much the loss rises when a layer is compressed."""
