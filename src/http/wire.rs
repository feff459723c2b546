//! The headers that tell a hop about the call.
