"""The farm: pure core, Ray hosts, ADB transport, provisioning, store, HTTP API, command line."""
