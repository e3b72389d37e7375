"""What a server says of itself: counters, its status, Prometheus, OpenTelemetry, `top`."""
