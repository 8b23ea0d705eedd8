//! The workspace: what is held from forward to backward, then scratch that both reuse.

/// When a part of the workspace is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// From the forward pass to the end of the backward pass.
    Held,
    /// During the forward pass.
    Forward,
    /// During the backward pass.
    Backward,
}

/// A part of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// When it is in use.
    pub region: Region,
    /// Offset from the beginning of the workspace (Held), or from the end of what is held, in bytes; a
    /// multiple of 256.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Sizes of a workspace, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WorkspaceLayout {
    /// Held from forward to backward: the first bytes of the workspace.
    pub held: u64,
    /// Scratch of the forward pass.
    pub forward: u64,
    /// Scratch of the backward pass.
    pub backward: u64,
}

impl WorkspaceLayout {
    /// The most that is in use at once.
    pub fn peak(&self) -> u64 {
        self.held + self.forward.max(self.backward)
    }

    /// Offset of a buffer from the beginning of the workspace.
    pub fn offset(&self, buffer: Buffer) -> u64 {
        match buffer.region {
            Region::Held => buffer.offset,
            Region::Forward | Region::Backward => self.held + buffer.offset,
        }
    }

    /// Makes room for a buffer, aligned to 256 bytes.
    pub(super) fn take(&mut self, region: Region, bytes: u64) -> Buffer {
        let end = match region {
            Region::Held => &mut self.held,
            Region::Forward => &mut self.forward,
            Region::Backward => &mut self.backward,
        };
        let offset = *end;
        *end = (offset + bytes).div_ceil(256) * 256;
        Buffer { region, offset, bytes }
    }
}
