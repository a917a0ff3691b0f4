//! What several benchmarks of images have: clients with disks that are files, and nginx beside the
//! server.

pub(super) use crate::client::{Client, DEVICE_PORT};
use crate::net::{Host, address};
use crate::paths;
use crate::process::{Process, output_of};
use crate::run::Run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where nginx listens.
pub(super) const NGINX_PORT: u16 = 8080;

/// Fetches nginx, once: outside of the enclosure.
///
/// # Errors
/// When Debian's package cannot be fetched.
pub(super) fn prepare(say: &dyn Fn(&str)) -> Result<()> {
    let dir = nginx_dir()?;
    if dir.exists() {
        return Ok(());
    }
    // Installed, it would start a web server on this computer.
    say("fetching nginx, without installing it");
    let cache = paths::lab("cache")?;
    let work = tempfile::tempdir_in(&cache).context("cannot make a folder in the cache")?;
    output_of(
        Command::new("apt-get")
            .args(["download", "nginx"])
            .current_dir(work.path()),
    )
    .context("cannot fetch Debian's package nginx")?;
    let package = only_file(work.path())?;
    let unpacked = work.path().join("unpacked");
    output_of(Command::new("dpkg").arg("-x").arg(package).arg(&unpacked))
        .context("cannot unpack Debian's package nginx")?;
    fs::rename(&unpacked, &dir).with_context(|| format!("cannot name {}", dir.display()))
}

fn nginx_dir() -> Result<PathBuf> {
    Ok(paths::lab("cache")?.join("nginx"))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let first = fs::read_dir(dir).context("cannot list a folder")?.next();
    Ok(first
        .context("apt-get has fetched nothing")?
        .context("cannot list a folder")?
        .path())
}

/// nginx on `host`, with the files of `folder`.
pub(super) fn start_nginx(run: &Run, host: &Host, folder: &Path) -> Result<Process> {
    let dir = run.file("nginx");
    fs::create_dir(&dir).context("cannot make nginx's folder")?;
    let configuration = format!(
        "daemon off; user root; worker_processes auto; pid {dir}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {dir}/body;\n\
           proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
           uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
           server {{ listen {}:{NGINX_PORT}; root {}; }} }}\n",
        address(1),
        folder.display(),
        dir = dir.display(),
    );
    let path = dir.join("nginx.conf");
    fs::write(&path, configuration).context("cannot write nginx's configuration")?;
    let program = nginx_dir()?.join("usr/sbin/nginx");
    let mut command = host.command(&program.display().to_string());
    command
        .arg("-p")
        .arg(&dir)
        .args(["-e", "stderr", "-c"])
        .arg(&path);
    let mut nginx = Process::start("nginx", command, &run.file("nginx.log"))?;
    let end = Instant::now() + Duration::from_secs(10);
    while host.run(|| TcpStream::connect((address(1), NGINX_PORT)).is_err())? {
        if Instant::now() >= end || !nginx.is_running()? {
            bail!(
                "nginx does not serve; it said:\n{}",
                nginx.transcript().tail()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(nginx)
}
