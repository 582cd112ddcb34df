//! Fuzz body: the control socket's language, as the daemon reads a client and a client reads the daemon.

use crate::proto::control::{
    FrameWriter, HEAD, Item, REQUEST_MAX, decode_request, encode_request, items, repeat, split_frame,
};

/// Bytes of a stream in either direction: frames stay inside it; what is understood can be said again, and is understood
/// as the same.
pub fn control(stream: &[u8]) {
    let mut rest = stream;
    while let Ok(Some((content, whole))) = split_frame(rest, usize::MAX) {
        assert!(whole == HEAD + content.len() && whole <= rest.len(), "a frame of {whole} bytes of {}", rest.len());
        check_request(content);
        check_items(content);
        rest = &rest[whole..];
    }
    // The same bytes without heads.
    check_request(stream);
    check_items(stream);
}

fn check_request(content: &[u8]) {
    let Ok(request) = decode_request(content) else { return };
    let mut buf = [0; REQUEST_MAX];
    let Ok(len) = encode_request(&request, &mut buf) else {
        assert!(content.len() > REQUEST_MAX - HEAD, "a short request that cannot be said again: {request:?}");
        return;
    };
    let (again, whole) = split_frame(&buf[..len], REQUEST_MAX).expect("our version").expect("complete");
    assert_eq!((decode_request(again), whole), (Ok(request), len));
}

fn check_items(content: &[u8]) {
    let mut count = 0;
    for item in items(content) {
        count += 1;
        let Ok(item) = item else { continue };
        let mut buf = vec![0; HEAD + content.len() + 16];
        let mut frame = FrameWriter::new(&mut buf);
        match item {
            Item::Done | Item::Failed(_) => frame.item(item),
            item => repeat(item, &mut frame),
        }
        assert!(!frame.overflowed, "{item:?} grew");
        let len = frame.finish();
        let (again, _) = split_frame(&buf[..len], usize::MAX).expect("our version").expect("complete");
        assert_eq!(items(again).collect::<Vec<_>>(), [Ok(item)]);
    }
    assert!(count <= content.len(), "{count} items in {} bytes", content.len());
}
