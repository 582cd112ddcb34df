//! linkwatch
pub mod config;
pub mod engine;
pub mod limits;
pub mod proto;
pub mod sys;
pub mod time;
pub mod types;
