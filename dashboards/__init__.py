"""What people watch: Prometheus rules, Grafana dashboards, the live page."""
