//! What the node plugin and the injector ask of the Kubernetes API: classes, status, events.
