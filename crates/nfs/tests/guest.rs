//! The NFS client of Linux, in a virtual machine, against a server that is killed meanwhile:
//!
//! ```text
//! cargo test -p bugler-nfs --test guest -- --ignored --nocapture
//! ```
//!
//! Needs QEMU, busybox-static, kmod, cpio and Debian's kernel package, which it fetches with apt.

mod common;

use common::base;
use common::server::{Process, serve_if_asked};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The process that [`Process::spawn`] starts is this test.
#[test]
fn server_process() {
    serve_if_asked();
}

/// Runs a script of the shell, which must succeed, and gives what it printed.
fn shell(folder: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A kernel, and an initramfs with busybox, its drivers and our scripts.
struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Guest {
    fn make(folder: &Path) -> Self {
        let of_lab =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/debs/linux-image-amd64");
        let here = folder.join("kernel");
        fs::create_dir_all(folder.join("root/modules")).unwrap();
        fs::create_dir_all(&here).unwrap();
        // The package that the lab has fetched, or a new one.
        shell(
            &here,
            &format!(
                "cp {}/linux-image-[0-9]*.deb . 2>/dev/null || apt-get download \
                 $(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p')
                 dpkg-deb -x linux-image-[0-9]*.deb .
                 version=$(ls lib/modules)
                 depmod -b . $version
                 count=100
                 for module in virtio_pci virtio_net nfsv3 nfs; do
                     modprobe -d . -S $version --show-depends $module
                 done | awk '!seen[$2]++ {{ print $2 }}' | while read -r file; do
                     count=$((count + 1))
                     cp $file ../root/modules/$count-$(basename $file)
                 done",
                of_lab.display()
            ),
        );
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest");
        shell(
            &folder.join("root"),
            &format!(
                "mkdir bin mnt proc sys dev tmp
                 cp /bin/busybox bin/
                 cp {0}/init.sh init
                 cp {0}/torture.sh {0}/check.sh .
                 chmod 755 init
                 find . | cpio -o -H newc --quiet | gzip -1 > ../initramfs",
                scripts.display()
            ),
        );
        Self {
            kernel: shell(&here, "echo -n $PWD/boot/vmlinuz-*").into(),
            initramfs: folder.join("initramfs"),
        }
    }

    /// Runs a script over the server's export, and gives its lines. `kill` is called where it says so.
    fn run(&self, script: &str, port: u16, kill: &mut dyn FnMut()) -> Vec<String> {
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-M", "q35", "-m", "512", "-nographic"])
            .args(["-no-reboot", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 no_timer_check port={port} script={script}"
            ))
            .args(["-netdev", "user,id=n,restrict=off"])
            .args(["-device", "virtio-net-pci,netdev=n,romfile="])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64: run scripts/setup");
        let mut lines = vec![];
        let mut console = BufReader::new(child.stdout.take().unwrap());
        let mut line = vec![];
        while console.read_until(b'\n', &mut line).unwrap() > 0 {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            println!("guest: {text}");
            if text == "KILL" {
                kill();
            }
            lines.push(text);
            line.clear();
        }
        child.wait().unwrap();
        lines
    }
}

fn torture(use_image: bool) {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image"));
    base::fill(&tree);
    if use_image {
        base::image(&tree, &image);
        assert!(File::open(&image).is_ok());
    }
    let guest = Guest::make(folder.path());
    let mut server = Process::spawn(folder.path(), 0, None);
    let port = server.address.port();
    let mut kills = 0;
    let lines = guest.run("torture", port, &mut || {
        server.kill();
        server = Process::spawn(folder.path(), port, None);
        kills += 1;
    });
    let failed: Vec<_> = lines.iter().filter(|it| it.starts_with("FAIL ")).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(lines.iter().any(|line| line == "FAILS 0"), "{lines:?}");
    assert_eq!(kills, 2);
    server.kill();
    let server = Process::spawn(folder.path(), port, None);
    let lines = guest.run("check", server.address.port(), &mut || {});
    assert!(lines.iter().any(|line| line == "ALL THERE"), "{lines:?}");
}

#[test]
#[ignore = "boots virtual machines: minutes"]
fn linux_works_on_a_folder_while_the_server_is_killed() {
    torture(false);
}

#[test]
#[ignore = "boots virtual machines: minutes"]
fn linux_works_on_an_image_while_the_server_is_killed() {
    torture(true);
}
