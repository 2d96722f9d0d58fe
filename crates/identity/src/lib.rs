//! Who the workload is to the cloud: credentials and the token cache.
