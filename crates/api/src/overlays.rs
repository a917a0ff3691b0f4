//! What the operator plane needs of whoever serves diskless machines.

use bugler_model::{ExportId, ImageName, NewImage};
use bugler_protocol::operator::OverlayView;

/// Why a layer could not be changed. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// There is none.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// It should have worked.
    #[error("{0}")]
    Broken(String),
}

/// What a commit put into the chunk store. The registry does not have it yet.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// What to enter into the registry.
    pub image: NewImage,
    /// Bytes of chunks that the store did not have, unpacked.
    pub new: u64,
    /// Kept until the image is in the registry: what holds its chunks.
    pub hold: std::sync::Arc<dyn std::any::Any + Send + Sync>,
}

/// The layers of diskless machines.
#[async_trait::async_trait]
pub trait Overlays: std::fmt::Debug + Send + Sync + 'static {
    /// Every layer, by device.
    ///
    /// # Errors
    /// Where the registry does not answer.
    async fn list(&self) -> Result<Vec<OverlayView>, OverlayError>;

    /// Forgets what a machine wrote, and the layer with it.
    ///
    /// # Errors
    /// [`OverlayError::Conflict`] while its machine runs on it, unless `running`.
    async fn reset(&self, id: ExportId, running: bool) -> Result<(), OverlayError>;

    /// Sets how many bytes a layer may take.
    ///
    /// # Errors
    /// [`OverlayError::Conflict`] where it holds more already.
    async fn grow(&self, id: ExportId, size: u64) -> Result<(), OverlayError>;

    /// Puts a base and one machine's layer into the chunk store as one image.
    ///
    /// # Errors
    /// [`OverlayError::Conflict`] while its machine runs on it, unless `running`.
    async fn commit(
        &self,
        id: ExportId,
        name: ImageName,
        note: String,
        running: bool,
    ) -> Result<NewVersion, OverlayError>;
}
