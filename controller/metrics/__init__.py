"""What Prometheus scrapes from the controller."""
