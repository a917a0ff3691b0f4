//! What a machine is made of, as its agent found it.

use crate::MacAddr;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Everything the agent reports of the machine it runs on.
///
/// Strings come from SMBIOS (DMTF DSP0134) and sysfs, trimmed; `None` where the firmware says
/// nothing or a filler such as `To Be Filled By O.E.M.`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Inventory {
    /// SMBIOS system UUID.
    #[schema(value_type = Option<String>)]
    pub uuid: Option<Uuid>,
    /// SMBIOS system serial number.
    pub serial: Option<String>,
    /// SMBIOS system manufacturer.
    pub vendor: Option<String>,
    /// SMBIOS product name.
    pub model: Option<String>,
    /// The processors.
    pub cpu: Cpu,
    /// Usable memory, in bytes.
    pub memory: u64,
    /// Disks, in the kernel's order.
    pub disks: Vec<Disk>,
    /// Wired network interfaces, in the kernel's order.
    pub nics: Vec<Nic>,
}

/// The processors of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Cpu {
    /// Model name of the first one.
    pub model: String,
    /// Hardware threads that are online.
    pub threads: u32,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// NVM Express.
    Nvme,
    /// SATA or SAS, and anything else behind the SCSI layer that is not USB.
    Scsi,
    /// USB mass storage.
    Usb,
    /// SD card or eMMC.
    Mmc,
    /// A virtio block device.
    Virtio,
    /// None of these, or not known.
    #[default]
    Other,
}

/// One block device that could hold an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Disk {
    /// Device node, for example `/dev/nvme0n1`.
    pub path: String,
    /// Model name as the disk reports it.
    pub model: Option<String>,
    /// Serial number as the disk reports it.
    pub serial: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes: 512 or 4096.
    pub sector_size: u32,
    /// How it is attached.
    pub transport: Transport,
    /// Whether the kernel calls it removable. USB disks count as removable too.
    pub removable: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// One wired network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nic {
    /// Kernel name, for example `eth0`.
    pub name: String,
    /// Permanent address.
    pub mac: MacAddr,
    /// Whether a carrier is present.
    pub link: bool,
    /// Link speed in Mbit/s, where the driver tells.
    pub speed: Option<u32>,
    /// Kernel driver, for example `virtio_net`.
    pub driver: Option<String>,
}
