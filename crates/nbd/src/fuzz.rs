//! What a client may send, as a function over bytes.

use crate::{
    export::Refusal,
    machine::{Action, ExportInfo, Host, Negotiation, Progress, TlsPolicy},
    packet::{self, Request},
};

/// Takes any bytes, as what a client sends: for tests and fuzzing.
pub fn fuzz(bytes: &[u8]) {
    struct Two;
    impl Host for Two {
        fn open(&mut self, name: &str) -> Result<ExportInfo, Refusal> {
            match name {
                "a" | "" => Ok(ExportInfo {
                    size: 1 << 20,
                    read_only: name.is_empty(),
                    description: "a disk".to_owned(),
                }),
                "b" => Err(Refusal::NeedsTls),
                _ => Err(Refusal::Unknown),
            }
        }

        fn list(&mut self) -> Vec<String> {
            vec!["a".to_owned()]
        }
    }
    let policy = match bytes.first() {
        Some(0) => TlsPolicy::Required,
        Some(1) => TlsPolicy::Offered,
        _ => TlsPolicy::Off,
    };
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(policy, &mut out);
    let mut rest = bytes.get(1..).unwrap_or_default();
    let session = loop {
        match negotiation.handle(rest, &mut out, &mut Two) {
            Ok((used, Progress::Transmit(session))) => {
                rest = rest.get(used..).unwrap_or_default();
                break session;
            }
            Ok((used, Progress::StartTls)) => rest = rest.get(used..).unwrap_or_default(),
            Ok((_, Progress::More | Progress::Closed)) | Err(_) => return,
        }
    };
    while let Some(request) = Request::decode(rest) {
        let again = Request::decode(&request.encode());
        assert_eq!(again, Some(request), "a request is read as it was written");
        if let Ok(action) = session.check(&request)
            && matches!(action, Action::Read | Action::Write { .. })
        {
            assert!(request.offset + u64::from(request.length) <= session.size);
        }
        rest = rest.get(packet::REQUEST_LEN..).unwrap_or_default();
    }
}
