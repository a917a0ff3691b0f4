//! Commands to the device behind a block device: NVMe admin commands (`linux/nvme_ioctl.h`) and SCSI
//! commands (`scsi/sg.h`).
#![allow(unsafe_code)]

use rustix::fd::AsFd;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;

const NVME_IOCTL_ADMIN_CMD: Opcode = opcode::read_write::<NvmeCommand>(b'N', 0x41);
const SG_IO: Opcode = 0x2285;

/// An NVMe admin command: `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// Sends an NVMe admin command with the dword 10 `cdw10` about `namespace` to the controller of `disk`;
/// what it answers goes into `data`, which may be empty. Waits at most `timeout_ms` milliseconds.
///
/// # Errors
/// What the kernel answers, and the status of the controller where that is not 0 (NVMe base
/// specification, "Status Field").
pub fn nvme_admin(
    disk: impl AsFd,
    opcode: u8,
    namespace: u32,
    cdw10: u32,
    data: &mut [u8],
    timeout_ms: u32,
) -> io::Result<()> {
    let mut command = NvmeCommand {
        opcode,
        namespace,
        cdw10,
        address: if data.is_empty() {
            0
        } else {
            data.as_mut_ptr().addr() as u64
        },
        data_length: u32::try_from(data.len()).map_err(io::Error::other)?,
        timeout_ms,
        ..NvmeCommand::default()
    };
    // SAFETY: NVME_IOCTL_ADMIN_CMD reads and writes a struct nvme_passthru_cmd, which NvmeCommand is. The
    // kernel writes at most `data_length` bytes at `address`: those of `data`, which is borrowed for
    // writing until the call is over. Where an opcode sends data, they are read only.
    let argument = unsafe { Updater::<NVME_IOCTL_ADMIN_CMD, NvmeCommand>::new(&mut command) };
    // SAFETY: see above; the descriptor is borrowed for the call. rustix passes on what is not an
    // error as a success, so that a status of the controller has to be looked for in what follows.
    let status = unsafe { ioctl(disk, Status(argument)) }?;
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "the controller answers with status {status:#05x}"
        )))
    }
}

/// An ioctl whose return value is wanted beside what it writes.
struct Status<T>(T);

// SAFETY: everything is as the inner ioctl has it, but for the result, which is the plain number.
unsafe impl<T: rustix::ioctl::Ioctl> rustix::ioctl::Ioctl for Status<T> {
    type Output = i32;
    const IS_MUTATING: bool = T::IS_MUTATING;

    fn opcode(&self) -> Opcode {
        self.0.opcode()
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_ptr()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Which way the data of a SCSI command go.
#[derive(Debug)]
pub enum Data<'a> {
    /// There are none.
    None,
    /// From the device.
    In(&'a mut [u8]),
    /// To the device.
    Out(&'a [u8]),
}

/// `struct sg_io_hdr`.
#[repr(C)]
struct SgHeader {
    interface: i32,
    direction: i32,
    command_length: u8,
    sense_length: u8,
    iovec_count: u16,
    data_length: u32,
    data: *mut c_void,
    command: *mut u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_written: u8,
    host_status: u16,
    driver_status: u16,
    residual: i32,
    duration_ms: u32,
    info: u32,
}

/// Sends a SCSI command to `disk` and waits at most `timeout_ms` milliseconds.
///
/// # Errors
/// What the kernel answers: `ENOTTY` where `disk` takes no SCSI commands; and what the device does, with
/// its sense data.
pub fn scsi(disk: impl AsFd, command: &[u8], data: Data<'_>, timeout_ms: u32) -> io::Result<()> {
    let mut command = command.to_vec();
    let mut sense = [0u8; 64];
    // The kernel reads what goes to the device through a pointer that it calls writable.
    let (direction, pointer, length) = match data {
        Data::None => (-1, null_mut(), 0),
        Data::Out(data) => (-2, data.as_ptr().cast_mut().cast(), data.len()),
        Data::In(data) => (-3, data.as_mut_ptr().cast(), data.len()),
    };
    let mut header = SgHeader {
        interface: i32::from(b'S'),
        direction,
        command_length: u8::try_from(command.len()).map_err(io::Error::other)?,
        sense_length: sense.len() as u8,
        iovec_count: 0,
        data_length: u32::try_from(length).map_err(io::Error::other)?,
        data: pointer,
        command: command.as_mut_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms,
        flags: 0,
        pack_id: 0,
        user: null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_written: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: SG_IO reads and writes a struct sg_io_hdr, which SgHeader is. It reads the command, writes
    // at most `sense_length` bytes of sense data, and reads or writes `data_length` bytes of data, as
    // `direction` says: all of them are borrowed until the call is over, for writing where it writes.
    let argument = unsafe { Updater::<SG_IO, SgHeader>::new(&mut header) };
    // SAFETY: see above; the descriptor is borrowed for the call.
    unsafe { ioctl(disk, argument) }?;
    if header.status == 0 && header.host_status == 0 && header.driver_status & 0x0f == 0 {
        return Ok(());
    }
    let sense = sense
        .get(..usize::from(header.sense_written))
        .unwrap_or_default();
    let sense: Vec<String> = sense.iter().map(|byte| format!("{byte:02x}")).collect();
    Err(io::Error::other(format!(
        "the device refuses it: status {:#04x}, host {:#06x}, sense {}",
        header.status,
        header.host_status,
        sense.join(" ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn the_structures_are_as_large_as_the_kernel_s() {
        assert_eq!(size_of::<NvmeCommand>(), 72);
        if cfg!(target_pointer_width = "64") {
            assert_eq!(size_of::<SgHeader>(), 88);
        }
        assert_eq!(NVME_IOCTL_ADMIN_CMD, 0xc048_4e41);
    }

    #[test]
    fn a_regular_file_takes_no_commands() {
        let file = tempfile::tempfile().unwrap();
        let not = |error: io::Error| error.raw_os_error() == Some(Errno::NOTTY.raw_os_error());
        assert!(not(
            nvme_admin(&file, 6, 0, 1, &mut [0; 4096], 1000).unwrap_err()
        ));
        assert!(not(scsi(&file, &[0; 16], Data::None, 1000).unwrap_err()));
        assert!(not(
            scsi(&file, &[0; 16], Data::In(&mut [0; 512]), 1000).unwrap_err()
        ));
        assert!(not(
            scsi(&file, &[0; 16], Data::Out(&[0; 512]), 1000).unwrap_err()
        ));
    }
}
