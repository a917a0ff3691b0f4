//! Which sequence numbers were seen: a packet counts once (section 6.12.13).

/// The numbers that came from the BMC in one session.
///
/// A number ahead of all others is taken however far ahead it is: only who has the key can have sent
/// it, and a window to the front would make the session deaf after a burst of loss.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    highest: Option<u32>,
    /// Bit n: the number n below the highest was seen.
    seen: u64,
}

impl Window {
    /// Takes a number; false where it was seen before, or is older than can be known.
    pub(super) fn take(&mut self, number: u32) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(number);
            self.seen = 1;
            return true;
        };
        let ahead = number.wrapping_sub(highest);
        if ahead != 0 && ahead < u32::MAX / 2 {
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = Some(number);
            return true;
        }
        let behind = highest.wrapping_sub(number);
        let Some(bit) = 1u64.checked_shl(behind) else {
            return false;
        };
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn no_number_is_taken_twice(
            start: u32,
            steps in prop::collection::vec(-70i32..70, 0..200),
        ) {
            let mut window = Window::default();
            let mut taken = HashSet::new();
            let mut at = start;
            for step in steps {
                at = at.wrapping_add_signed(step);
                if window.take(at) {
                    prop_assert!(taken.insert(at), "{at} was taken twice");
                }
            }
        }
    }

    #[test]
    fn what_is_new_is_taken_out_of_order_too() {
        let mut window = Window::default();
        let taken: Vec<_> = [1, 3, 2, 3, 100, 2, 40, 1000]
            .map(|number| window.take(number))
            .to_vec();
        assert_eq!(taken, [true, true, true, false, true, false, true, true]);
    }
}
