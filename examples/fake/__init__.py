"""A model that answers as it is told: for trying rollouts without training anything."""
