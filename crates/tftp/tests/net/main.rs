//! The server on real sockets.

mod foreign;
mod mtu;
mod serve;
mod single;
mod site;
