//! How a log line is said: as `log`'s macros do, without what each of them adds of its own place, which no release prints.
//!
//! A line costs its words and a call; on MIPS `log`'s own take 50 bytes more, each.

use core::fmt::Arguments;

/// `log!(Warn, "words {}", value)`: a line of that level. What a release does not say (`log`'s features) is not compiled.
macro_rules! log {
    ($level:ident, $($words:tt)+) => {
        if log::Level::$level <= log::STATIC_MAX_LEVEL {
            $crate::log_line::log_line(log::Level::$level, format_args!($($words)+));
        }
    };
}

/// Hands a line to the logger that [`crate::sys::log::start`] set, unless nobody wants to hear of its level.
#[inline(never)]
pub fn log_line(level: log::Level, words: Arguments<'_>) {
    if level <= log::max_level() {
        log::logger().log(&log::Record::builder().level(level).target("linkwatch").args(words).build());
    }
}
