//! Tests of rejections that reach a client which is still sending its request.

#![cfg(feature = "http")]

mod bounds;
mod rejections;
mod sockets;
mod upload;
