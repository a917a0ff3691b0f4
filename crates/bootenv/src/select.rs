//! Which modules go into the initramfs: those that get a machine onto its wired network, to its local
//! disks and to disks and folders of a server, and the filesystems on them.

use bugler_model::Arch;

/// Folders, and beginnings of file names, whose modules are taken. Below `kernel/`.
const WANTED: &[&str] = &[
    // Wired network.
    "drivers/net/ethernet/",
    "drivers/net/hyperv/",
    "drivers/net/mdio/",
    "drivers/net/pcs/",
    "drivers/net/phy/",
    "drivers/net/usb/",
    "drivers/net/virtio_net.",
    "drivers/net/vmxnet3/",
    "drivers/net/xen-netfront.",
    "net/packet/af_packet.",
    // Disks.
    "drivers/ata/",
    "drivers/block/mtip32xx/",
    "drivers/block/virtio_blk.",
    "drivers/block/xen-blkfront.",
    "drivers/message/fusion/",
    "drivers/mmc/",
    "drivers/nvme/host/nvme.",
    "drivers/scsi/",
    "drivers/ufs/",
    "drivers/usb/storage/",
    // What those are attached to.
    "drivers/hv/hv_vmbus.",
    "drivers/pci/controller/",
    "drivers/usb/dwc2/",
    "drivers/usb/dwc3/",
    "drivers/usb/host/",
    "drivers/virtio/",
    // A root filesystem over the network.
    "drivers/block/aoe/",
    "drivers/block/nbd.",
    "fs/nfs/nfs.",
    "fs/nfs/nfsv3.",
    // A keyboard for the rescue shell.
    "drivers/hid/hid.",
    "drivers/hid/hid-generic.",
    "drivers/hid/hid-hyperv.",
    "drivers/hid/usbhid/usbhid.",
    "drivers/input/keyboard/atkbd.",
    "drivers/input/serio/hyperv-keyboard.",
    "drivers/input/serio/i8042.",
    // The filesystems of systems: what a machine gets of its own is written into them. FAT wants the
    // tables of its characters.
    "fs/ext4/",
    "fs/fat/vfat.",
    "fs/nls/nls_ascii.",
    "fs/nls/nls_cp437.",
    "fs/nls/nls_iso8859-1.",
    "fs/nls/nls_utf8.",
    "fs/xfs/",
    // Checksums that they ask for by name.
    "crypto/crc32c_generic.",
    // The boot entries of UEFI, and randomness for TLS on machines that have none early.
    "fs/efivarfs/",
    "drivers/char/hw_random/",
];

/// More of the same for boards without a PC's firmware: what network and disk hang on there has
/// drivers of its own, which no dependency names.
const WANTED_ON_ARM: &[&str] = &[
    "drivers/bus/",
    "drivers/clk/",
    "drivers/dma/",
    "drivers/firmware/",
    "drivers/gpio/",
    "drivers/i2c/busses/",
    "drivers/mailbox/",
    "drivers/mfd/",
    "drivers/nvmem/",
    "drivers/phy/",
    "drivers/pinctrl/",
    "drivers/pwm/",
    "drivers/regulator/",
    "drivers/reset/",
    "drivers/soc/",
    "drivers/usb/chipidea/",
    "drivers/usb/phy/",
    // Newer kernels keep power switches of a processor's parts here.
    "drivers/pmdomain/",
    // A Raspberry Pi reboots by its watchdog.
    "drivers/watchdog/bcm2835_wdt.",
];

/// What is left out all the same.
const UNWANTED: &[&str] = &[
    // Switches, and adapters that are nothing without large firmware.
    "drivers/net/ethernet/cavium/liquidio/",
    "drivers/net/ethernet/chelsio/inline_crypto/",
    "drivers/net/ethernet/marvell/prestera/",
    "drivers/net/ethernet/mellanox/mlxsw/",
    "drivers/net/ethernet/mscc/",
    "drivers/net/ethernet/netronome/",
    // Modems and telephones.
    "drivers/net/usb/cdc-phonet.",
    "drivers/net/usb/cdc_mbim.",
    "drivers/net/usb/hso.",
    "drivers/net/usb/huawei_cdc_ncm.",
    "drivers/net/usb/ipheth.",
    "drivers/net/usb/kalmia.",
    "drivers/net/usb/lg-vl600.",
    "drivers/net/usb/qmi_wwan.",
    "drivers/net/usb/sierra_net.",
    // Disks of a storage network: they are shared, and never deployed to by being there.
    "drivers/message/fusion/mptctl.",
    "drivers/message/fusion/mptfc.",
    "drivers/message/fusion/mptlan.",
    "drivers/scsi/be2iscsi/",
    "drivers/scsi/bfa/",
    "drivers/scsi/bnx2fc/",
    "drivers/scsi/bnx2i/",
    "drivers/scsi/csiostor/",
    "drivers/scsi/cxgbi/",
    "drivers/scsi/device_handler/",
    "drivers/scsi/elx/",
    "drivers/scsi/fcoe/",
    "drivers/scsi/fnic/",
    "drivers/scsi/ibmvscsi",
    "drivers/scsi/iscsi_",
    "drivers/scsi/libfc/",
    "drivers/scsi/libiscsi",
    "drivers/scsi/lpfc/",
    "drivers/scsi/qedf/",
    "drivers/scsi/qedi/",
    "drivers/scsi/qla2xxx/",
    "drivers/scsi/qla4xxx/",
    "drivers/scsi/scsi_transport_fc.",
    "drivers/scsi/scsi_transport_iscsi.",
    "drivers/scsi/scsi_transport_srp.",
    "drivers/scsi/snic/",
    // Tapes, changers, optical drives, scanners; a driver that only pretends.
    "drivers/scsi/ch.",
    "drivers/scsi/osst.",
    "drivers/scsi/scsi_debug.",
    "drivers/scsi/ses.",
    "drivers/scsi/sg.",
    "drivers/scsi/sr_mod.",
    "drivers/scsi/st.",
    // PC Cards, and drivers that probe the addresses of old cards blindly.
    "drivers/ata/pata_legacy.",
    "drivers/ata/pata_pcmcia.",
    "drivers/mmc/host/sdricoh_cs.",
    "drivers/scsi/pcmcia/",
    // No disk and no network.
    "drivers/mmc/core/sdio_uart.",
    "drivers/usb/host/sl811_cs.",
    "drivers/usb/host/u132-hcd.",
    "drivers/virtio/virtio_balloon.",
    "drivers/virtio/virtio_dma_buf.",
    "drivers/virtio/virtio_input.",
    "drivers/virtio/virtio_mem.",
];

/// Whether the module with this path, seen from the modules folder, is taken for its own sake.
/// What it depends on is taken with it, wherever that lies.
pub(crate) fn is_wanted(path: &str, arch: Arch) -> bool {
    let Some(path) = path.strip_prefix("kernel/") else {
        return false;
    };
    let is_pc_card = path
        .split('.')
        .next()
        .is_some_and(|stem| stem.ends_with("_cs"));
    let on_arm = matches!(arch, Arch::Arm | Arch::Aarch64);
    let is_in = |list: &[&str]| list.iter().any(|start| path.starts_with(start));
    (is_in(WANTED) || on_arm && is_in(WANTED_ON_ARM)) && !is_in(UNWANTED) && !is_pc_card
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_disks_are_wanted() {
        for path in [
            "kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko",
            "kernel/drivers/net/virtio_net.ko.xz",
            "kernel/drivers/net/phy/realtek.ko",
            "kernel/drivers/nvme/host/nvme.ko.zst",
            "kernel/drivers/scsi/sd_mod.ko",
            "kernel/drivers/ata/ahci.ko",
            "kernel/fs/ext4/ext4.ko",
            "kernel/drivers/block/nbd.ko",
            "kernel/drivers/block/aoe/aoe.ko",
            "kernel/fs/nfs/nfsv3.ko.xz",
            "kernel/fs/nls/nls_cp437.ko.xz",
        ] {
            assert!(is_wanted(path, Arch::X86_64), "{path}");
        }
    }

    #[test]
    fn the_rest_is_not() {
        for path in [
            "kernel/drivers/net/wireless/intel/iwlwifi/iwlwifi.ko",
            "kernel/drivers/net/ethernet/mellanox/mlxsw/mlxsw_core.ko",
            "kernel/drivers/net/ethernet/amd/nmclan_cs.ko.xz",
            "kernel/drivers/nvme/host/nvme-tcp.ko",
            "kernel/drivers/scsi/st.ko",
            "kernel/drivers/gpu/drm/drm.ko",
            "kernel/drivers/pinctrl/pinctrl-lynxpoint.ko",
            "drivers/ata/ahci.ko",
        ] {
            assert!(!is_wanted(path, Arch::X86_64), "{path}");
        }
        assert!(is_wanted("kernel/drivers/scsi/stex.ko", Arch::X86_64));
        assert!(is_wanted(
            "kernel/drivers/pinctrl/bcm/pinctrl-x.ko",
            Arch::Aarch64
        ));
    }
}
