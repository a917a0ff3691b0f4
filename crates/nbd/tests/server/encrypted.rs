use crate::{by_hand::Client, overlay, run, serve_with};
use bugler_nbd::{Identity, Options, TlsPolicy};
use std::fs;

fn options(tls: TlsPolicy, identity: Option<Identity>) -> Options {
    Options {
        tls,
        identity,
        ..Options::default()
    }
}

#[test]
fn a_client_with_the_authority_gets_in_and_talks_to_no_other_server() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    // Kept, and used again by the next start.
    let identity =
        Identity::from_pem(identity.authority(), identity.certificate(), identity.key()).unwrap();
    let trusted = dir.path().join("trusted");
    let other = dir.path().join("other");
    for (folder, pem) in [
        (&trusted, identity.authority().to_owned()),
        (
            &other,
            Identity::generate(&["localhost".to_owned()])
                .unwrap()
                .authority()
                .to_owned(),
        ),
    ] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("ca-cert.pem"), pem).unwrap();
    }
    let export = overlay(dir.path(), 32 << 20, None);
    let options = options(TlsPolicy::Required, Some(identity));
    let running = serve_with(&[("lab-7/secret", export)], options, true).unwrap();
    let port = running.address.port();
    let url = |folder: &std::path::Path| {
        format!(
            "nbds://localhost:{port}/lab-7/secret?tls-certificates={}",
            folder.display()
        )
    };
    let told = run("nbdinfo", &[&url(&trusted)]).unwrap();
    assert!(told.contains("with TLS"), "{told}");
    let image = dir.path().join("image");
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 977) as u8).collect();
    fs::write(&image, &bytes).unwrap();
    let image = image.to_str().unwrap();
    let copy = dir.path().join("copy");
    run("nbdcopy", &["--connections=2", image, &url(&trusted)]).unwrap();
    run("nbdcopy", &[&url(&trusted), copy.to_str().unwrap()]).unwrap();
    assert!(fs::read(copy).unwrap()[..bytes.len()] == bytes);
    let pinned = run("nbdinfo", &[&url(&other)]).unwrap_err();
    assert!(pinned.contains("certificate"), "{pinned}");
    let plain = run("nbdinfo", &[&running.url("lab-7/secret")]).unwrap_err();
    assert!(plain.contains("TLS"), "{plain}");
    // QEMU's client as well.
    let told = run(
        "qemu-img",
        &[
            "info",
            "--object",
            &format!(
                "tls-creds-x509,id=tls0,endpoint=client,dir={}",
                trusted.display()
            ),
            "--image-opts",
            &format!(
                "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},\
             export=lab-7/secret,tls-creds=tls0"
            ),
        ],
    )
    .unwrap();
    assert!(told.contains("virtual size: 32 MiB"), "{told}");
}

#[test]
fn where_encryption_is_offered_an_export_can_still_insist_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate(&["localhost".to_owned()]).unwrap();
    let export = overlay(dir.path(), 32 << 20, None);
    let offered = options(TlsPolicy::Offered, Some(identity));
    let running = serve_with(&[("disk", export)], offered, true).unwrap();
    let plain = run("nbdinfo", &[&running.url("disk")]).unwrap_err();
    assert!(
        plain.contains("TLS") || plain.contains("STARTTLS"),
        "{plain}"
    );
    assert!(serve_with(&[], options(TlsPolicy::Offered, None), false).is_err());
}

/// What is sent in clear behind STARTTLS must not be taken for encrypted.
#[test]
fn nothing_is_taken_over_from_before_encryption() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate(&["localhost".to_owned()]).unwrap();
    let export = overlay(dir.path(), 32 << 20, None);
    let offered = options(TlsPolicy::Offered, Some(identity));
    let running = serve_with(&[("disk", export)], offered, false).unwrap();
    let mut client = Client::greet(running.address);
    let mut both = Client::option_bytes(5, &[]);
    both.extend(Client::option_bytes(3, &[]));
    client.send(&both);
    assert!(
        client.is_closed(),
        "the injected option ends the connection"
    );
}
