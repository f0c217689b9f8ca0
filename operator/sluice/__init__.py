"""The Sluice operator: ships machine-learning model versions safely."""
