//! Access, bounded cache, single flight, rotation, freshness and subscriptions.
