//! What the decoders are tried with: the kept corpus, the packets of real clients, and the worst that
//! could be thought of.

use crate::worst;
use std::io;
use std::path::{Path, PathBuf};

/// One input of a target.
#[derive(Clone, Debug)]
pub struct Input {
    /// Where it is from: a file, or a few words.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// How many bytes of one packet reach a target in the program that uses its decoder. `None` for the
/// targets that read files, streams and bodies of HTTP requests, which are as long as they are.
#[must_use]
pub fn largest_packet(target: &str) -> Option<usize> {
    Some(match target {
        // The buffer of `bugler-dhcp`'s sockets.
        "dhcp_packet" => 9216,
        // Frames that `bugler-dhcp` hears on the link.
        "dhcp_frame" => 2048,
        // A frame on a link for jumbo frames.
        "aoe_frame" => 9014,
        // The buffer for requests of `bugler-tftp`; names in them go to the other two.
        "tftp_packet" | "boot_path" | "pi_boot" => 2048,
        // The buffer of `bugler-ndp`, behind the sender's address.
        "ndp_message" => 16 + 256,
        // The buffer of `bugler-bmc`'s sockets.
        "ipmi_packet" => 2048,
        // The buffer of the agent's DHCP client.
        "agent_dhcp" => 2048,
        // The buffer of the load generator.
        "simulate_answer" => 1500,
        _ => return None,
    })
}

/// Every input that there is for a target. Of a packet reader's, no more than reaches it.
///
/// # Errors
/// When a folder or file of the source tree cannot be read; the error names it.
pub fn inputs(target: &str) -> io::Result<Vec<Input>> {
    let mut all = kept(target)?;
    all.extend(recorded(target)?);
    all.extend(worst::inputs(target));
    if let Some(largest) = largest_packet(target) {
        for input in &mut all {
            input.bytes.truncate(largest);
        }
    }
    Ok(all)
}

/// The kept corpus: `fuzz/corpus/<target>/`, in the order of names.
///
/// # Errors
/// When the folder or a file in it cannot be read.
pub fn kept(target: &str) -> io::Result<Vec<Input>> {
    let dir = workspace().join("fuzz/corpus").join(target);
    let mut kept = vec![];
    for path in files_of(&dir)? {
        kept.push(Input {
            name: format!("corpus {}", last_part(&path)),
            bytes: read(&path)?,
        });
    }
    Ok(kept)
}

/// The recorded packets of clients: `tests/cases/` of `bugler-dhcp` and `bugler-tftp`.
///
/// # Errors
/// When a folder or file cannot be read, or holds no packet.
pub fn recorded(target: &str) -> io::Result<Vec<Input>> {
    let of = match target {
        "dhcp_packet" => "dhcp",
        "tftp_packet" => "tftp",
        _ => return Ok(vec![]),
    };
    let cases = workspace().join("crates").join(of).join("tests/cases");
    let mut recorded = vec![];
    for case in files_of(&cases)?.iter().filter(|path| path.is_dir()) {
        for path in files_of(case)? {
            let name = last_part(&path);
            if !name.ends_with(".hex") && name != "client.txt" {
                continue;
            }
            let text = String::from_utf8_lossy(&read(&path)?).into_owned();
            for bytes in packets(&name, &text) {
                if bytes.is_empty() {
                    return Err(io::Error::other(format!(
                        "{} has a line without bytes in hexadecimal",
                        path.display()
                    )));
                }
                recorded.push(Input {
                    name: format!("recorded {}/{name}", last_part(case)),
                    bytes,
                });
            }
        }
    }
    Ok(recorded)
}

/// A `.hex` file has one packet; `client.txt` one a line, behind the time at which it came.
fn packets(name: &str, text: &str) -> Vec<Vec<u8>> {
    if name != "client.txt" {
        return vec![hex(text)];
    }
    let lines = text.lines();
    lines
        .map(|line| hex(line.rsplit(' ').next().unwrap_or_default()))
        .collect()
}

/// Pairs of hexadecimal digits, with or without spaces between them; lines that begin with `#` say
/// something else.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::chars)
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().map(|[high, low]| high << 4 | low).collect()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn last_part(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn files_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let told = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot list {}: {error}", dir.display()),
        )
    };
    let mut paths = vec![];
    for entry in std::fs::read_dir(dir).map_err(told)? {
        paths.push(entry.map_err(told)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot read {}: {error}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TARGETS;

    #[test]
    fn recorded_packets_are_read() {
        let dhcp = recorded("dhcp_packet").unwrap();
        assert!(dhcp.len() >= 40, "{}", dhcp.len());
        assert!(dhcp.iter().filter(|input| input.bytes.len() >= 240).count() >= 40);
        let tftp = recorded("tftp_packet").unwrap();
        assert!(
            tftp.iter()
                .any(|input| input.bytes.starts_with(b"\0\x01f\0octet\0tsize"))
        );
        assert!(recorded("manifest").unwrap().is_empty());
    }

    #[test]
    fn a_packet_is_as_long_as_its_socket_takes() {
        for target in TARGETS {
            let Some(largest) = largest_packet(target.name) else {
                continue;
            };
            let inputs = inputs(target.name).unwrap();
            assert!(inputs.iter().all(|input| input.bytes.len() <= largest));
            let fills = inputs.iter().any(|input| input.bytes.len() == largest);
            assert!(fills, "{}: nothing as long as {largest}", target.name);
        }
    }
}
