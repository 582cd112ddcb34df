//! One line when the daemon is ended by a fault of its own: small builds have no text for a panic, only the place.
//!
//! A release for routers ends at once where it would panic, by an instruction that is none (`SIGILL`, `SIGTRAP`) or by
//! `abort`. The line has the signal and the address of the instruction; the file with names that `tests/cross/build`
//! leaves beside the program turns that into one (`addr2line -f`). Then the signal takes its course, so that procd or systemd
//! sees a crash and starts it again.

use std::ffi::c_void;

/// Where the program counter stands in `ucontext_t`, in bytes (the kernel's `asm/ucontext.h`, `asm/sigcontext.h`).
const COUNTER: usize = if cfg!(target_arch = "mips") {
    if cfg!(target_endian = "big") { 36 } else { 32 }
} else if cfg!(target_arch = "arm") {
    92
} else if cfg!(target_arch = "aarch64") {
    440
} else {
    168
};
/// Whether the kernel's layout above is this machine's; elsewhere the line has no address.
const KNOWN: bool = cfg!(all(
    target_os = "linux",
    any(target_arch = "mips", target_arch = "arm", target_arch = "aarch64", target_arch = "x86_64")
));

/// Has the line written to standard error from now on.
pub fn promise() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = speak;
    // SAFETY: sigaction is plain data; the handler only does what a handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        for signal in [libc::SIGILL, libc::SIGTRAP, libc::SIGFPE, libc::SIGABRT] {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

extern "C" fn speak(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let mut line = [0; 120];
    let mut len = 0;
    let mut put = |text: &[u8]| {
        for byte in text {
            if let Some(place) = line.get_mut(len) {
                *place = *byte;
                len += 1;
            }
        }
    };
    put(b"linkwatch: error: stopped by a fault of its own, signal ");
    put(&[b'0' + (signal / 10 % 10) as u8, b'0' + (signal % 10) as u8]);
    if KNOWN {
        // SAFETY: the kernel gives a whole ucontext_t, which is longer; a word at that place is what KNOWN says.
        let counter = unsafe { context.cast::<u8>().add(COUNTER).cast::<usize>().read_unaligned() };
        put(b" at 0x");
        for nibble in (0..usize::BITS / 4).rev() {
            put(&[b"0123456789abcdef"[counter >> (nibble * 4) & 15]]);
        }
    }
    put(b"; please report this line with what --version says\n");
    // SAFETY: the bytes are ours; write and raise may be called here. The signal is blocked until this returns, and
    // nobody handles it any more.
    unsafe {
        libc::write(2, line.as_ptr().cast(), len);
        libc::raise(signal);
    }
}
