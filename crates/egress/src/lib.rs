//! The outbound HTTP client: TLS floor, limits, pinning, throttle gates.
