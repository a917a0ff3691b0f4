//! The kernel command line, as far as it concerns the agent.

use crate::diskless::Arguments;
use bugler_model::MacAddr;
use bugler_protocol::agent::{CMDLINE_KEY, CMDLINE_SERVER, CMDLINE_TOKEN};

/// What the boot loader told the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `bugler.server=`: where the server is.
    pub server: Option<String>,
    /// `bugler.token=`: the token that was made for this boot.
    pub token: Option<String>,
    /// `bugler.key=`: the key that manifests must be signed by, as it was written.
    pub key: Option<String>,
    /// `BOOTIF=`: the interface that the machine booted from.
    pub boot_mac: Option<MacAddr>,
    /// `bugler.rescue`: a shell on the console at once.
    pub rescue: bool,
    /// `bugler.root=` and what belongs to it: a root filesystem over the network.
    pub diskless: Arguments,
}

impl Cmdline {
    /// Reads the text of `/proc/cmdline`. What cannot be read is left out; of several values the
    /// last one counts, as for the kernel itself.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut cmdline = Self::default();
        for word in words(text) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            let value_if_any = (!value.is_empty()).then(|| value.to_owned());
            match key {
                CMDLINE_SERVER => cmdline.server = value_if_any,
                CMDLINE_TOKEN => cmdline.token = value_if_any,
                // Also where nothing follows: a key that was lost is not a key that was not given.
                CMDLINE_KEY => cmdline.key = Some(value.to_owned()),
                "BOOTIF" => cmdline.boot_mac = value.parse().ok(),
                "bugler.rescue" => cmdline.rescue = value != "0",
                _ => cmdline.diskless.take(key, value),
            }
        }
        cmdline
    }
}

/// Splits at white space outside of double quotes, and takes the quotes away
/// (Documentation/admin-guide/kernel-parameters of the kernel).
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        if c == '"' {
            quoted = !quoted;
        } else if c.is_ascii_whitespace() && !quoted {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_loader_says_is_found() {
        let text = "vmlinuz initrd=initrd bugler.server=http://10.20.50.1:8480 \
                    x=\"a bugler.token=no b\" bugler.token=t0k=en bugler.key=ab12 BOOTIF=01-52-54-00-00-00-01\n";
        let expected = Cmdline {
            server: Some("http://10.20.50.1:8480".into()),
            token: Some("t0k=en".into()),
            key: Some("ab12".into()),
            boot_mac: Some(MacAddr([0x52, 0x54, 0, 0, 0, 1])),
            ..Cmdline::default()
        };
        assert_eq!(Cmdline::parse(text), expected);
    }

    #[test]
    fn odd_values_are_left_out() {
        let cmdline = Cmdline::parse("bugler.server= BOOTIF=eth0 bugler.rescue quiet");
        let expected = Cmdline {
            rescue: true,
            ..Cmdline::default()
        };
        assert_eq!(cmdline, expected);
        assert!(!Cmdline::parse("bugler.rescue=1 bugler.rescue=0").rescue);
        assert_eq!(words(" a  \"b c\"d\te "), ["a", "b cd", "e"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(bugler.root=(nbd|nfs|aoe):)?[\"= a-zA-Z.:/\\-01\t\n]{0,80}") {
            let _ = Cmdline::parse(&text).diskless.plan();
        }
    }
}
