"""What the configs learn, over seeds."""
