"""Methods side by side at an equal budget, each with a learning rate of its own."""
