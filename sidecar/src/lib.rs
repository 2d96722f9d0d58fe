//! One pod's secrets as files and local gRPC.
