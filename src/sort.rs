//! Order for short lists.
//!
//! The standard library's sorts are made anew for each kind of list, half a kilobyte each; none of ours is long.

/// Sorts so that of no two neighbours the second is to come `before` the first; equals keep their order.
pub fn sort<T>(list: &mut [T], before: impl Fn(&T, &T) -> bool) {
    for end in 1..list.len() {
        for at in (1..=end).rev() {
            match list.get_mut(at - 1..=at) {
                Some([left, right]) if before(right, left) => core::mem::swap(left, right),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sort;

    #[test]
    fn equals_keep_their_order() {
        let mut list = [(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (1, 'e')];
        sort(&mut list, |a, b| a.0 < b.0);
        assert_eq!(list, [(1, 'b'), (1, 'e'), (2, 'd'), (3, 'a'), (3, 'c')]);
        sort(&mut [0_u8; 0], |a, b| a < b);
    }
}
