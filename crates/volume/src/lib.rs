//! Declared objects kept current as one tree of files and one view for the local API.
