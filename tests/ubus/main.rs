//! ubus: the codec against recorded bytes, the client against recorded conversations and a bus of our own, and the daemon
//! on that bus.

mod bus;
mod capture;
mod client;
mod conversations;
mod fields;
mod session;
mod vectors;
