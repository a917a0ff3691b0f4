//! Which of two kernels is the newer one.

use std::cmp::Ordering;

/// Compares versions as people count: runs of digits by their value, all else by its bytes.
/// `6.1.0-9` is older than `6.1.0-37`.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.is_empty(), b.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (one, rest_a) = run(a);
        let (two, rest_b) = run(b);
        let order = if one.starts_with(is_digit) && two.starts_with(is_digit) {
            let value = |digits: &str| digits.trim_start_matches('0').to_owned();
            let (one, two) = (value(one), value(two));
            one.len().cmp(&two.len()).then_with(|| one.cmp(&two))
        } else {
            one.cmp(two)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// The first run of digits, or of anything else.
fn run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(is_digit);
    let end = text.find(|c| is_digit(c) != digits).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newest_kernel_is_the_last() {
        let mut all = [
            "6.1.0-37-amd64",
            "6.1.0-9-amd64",
            "6.12.3",
            "5.10.0-30-amd64",
            "6.1.0",
        ];
        all.sort_by(|a, b| compare(a, b));
        assert_eq!(
            all,
            [
                "5.10.0-30-amd64",
                "6.1.0",
                "6.1.0-9-amd64",
                "6.1.0-37-amd64",
                "6.12.3"
            ]
        );
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[0-9a.-]{0,8}", b in "[0-9a.-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
        }
    }
}
