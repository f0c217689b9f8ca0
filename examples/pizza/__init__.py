"""An example model, trained from scratch: which topping lies where on a pizza.

Scenes are rendered, not collected, so everything an artifact needs can be made again by one command.
Must not be imported by the operator or by the inference image.
"""
