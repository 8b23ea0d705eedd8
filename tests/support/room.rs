//! Buffers between guard zones, in the host's memory or a GPU's, poisoned with NaN.

use super::device::Bench;
use cce::{DType, Element, Error, ScalarArg, View, ViewMut, Workspace};
use cce_runtime::driver::{Buffer, DevicePtr, Stream};
use half::{bf16, f16};

/// Bytes before and behind each buffer that nothing may write to.
const GUARD: usize = 512;

/// What the guard zones are full of: as a floating-point number of any type small, not NaN.
const FENCE: u8 = 0xa5;

/// What buffers are full of before something is put there: NaN in every floating-point type, -1 in integers.
const POISON: u8 = 0xff;

/// A buffer of some bytes. Its content is staged on the host and put on the device by [`Room::put`].
pub struct Room {
    what: String,
    host: Vec<u8>,
    offset: usize,
    bytes: usize,
    device: Option<(Buffer, u64, usize)>,
}

impl Room {
    /// `bytes` of poison, at an address that is a multiple of `align`, but not of twice as much.
    pub fn new(bench: &Bench, what: &str, bytes: usize, align: usize) -> Result<Room, String> {
        assert!(align.is_power_of_two() && align <= 256);
        let shift = align % 256;
        let total = 256 + GUARD + shift + bytes + GUARD;
        let mut host = vec![FENCE; total];
        let (offset, device) = match bench {
            Bench::Cpu(_) => (host.as_ptr().align_offset(256) + GUARD + shift, None),
            Bench::Gpu(gpu) => {
                // Device allocations are aligned to 256 bytes, and GUARD is a multiple of that.
                let buffer = gpu.context.alloc(total, what).map_err(|error| error.to_string())?;
                let offset = GUARD + shift;
                let address = buffer.ptr().0 + offset as u64;
                (offset, Some((buffer, address, gpu.context.info().index)))
            }
        };
        host[offset..offset + bytes].fill(POISON);
        Ok(Room { what: what.to_owned(), host, offset, bytes, device })
    }

    /// A buffer that holds these bytes.
    pub fn of(bench: &Bench, what: &str, content: &[u8], align: usize) -> Result<Room, String> {
        let mut room = Room::new(bench, what, content.len(), align)?;
        room.content_mut().copy_from_slice(content);
        Ok(room)
    }

    /// What is staged.
    pub fn content_mut(&mut self) -> &mut [u8] {
        &mut self.host[self.offset..self.offset + self.bytes]
    }

    /// Poison again.
    pub fn poison(&mut self) {
        self.content_mut().fill(POISON);
    }

    /// Copies what is staged, guard zones included, to the device.
    pub fn put(&mut self, stream: Option<&Stream>) -> Result<(), String> {
        match (&self.device, stream) {
            (Some((buffer, ..)), Some(stream)) => {
                stream.upload(buffer, 0, &self.host).map_err(|error| format!("{}: {error}", self.what))
            }
            _ => Ok(()),
        }
    }

    /// Copies everything back and looks at the guard zones.
    pub fn get(&mut self, stream: Option<&Stream>) -> Result<&[u8], String> {
        if let (Some((buffer, ..)), Some(stream)) = (&self.device, stream) {
            stream
                .download(buffer, 0, &mut self.host)
                .map_err(|error| format!("reading {}: {error}", self.what))?;
        }
        let end = self.offset + self.bytes;
        let touched = |zone: &[u8]| zone.iter().position(|&byte| byte != FENCE);
        let before = &self.host[self.offset - GUARD..self.offset];
        if before.iter().any(|&byte| byte != FENCE) {
            let at = before.iter().rposition(|&byte| byte != FENCE).unwrap_or(0);
            return Err(format!("{}: byte {} before the buffer was written to", self.what, GUARD - at));
        }
        if let Some(at) = touched(&self.host[end..end + GUARD]) {
            return Err(format!("{}: byte {at} behind the buffer was written to", self.what));
        }
        Ok(&self.host[self.offset..end])
    }

    /// The same, and an error if the content is not this.
    pub fn unchanged(&mut self, stream: Option<&Stream>, content: &[u8]) -> Result<(), String> {
        let what = self.what.clone();
        match self.get(stream)? == content {
            true => Ok(()),
            false => Err(format!("{what}: an input was written to")),
        }
    }

    /// The address of the content: the device's, or the host's.
    fn address(&self) -> u64 {
        match &self.device {
            Some((_, address, _)) => *address,
            None => self.host.as_ptr().addr() as u64 + self.offset as u64,
        }
    }

    fn len(&self, element: Element) -> usize {
        self.bytes / element.bytes()
    }

    #[expect(unsafe_code, reason = "views of memory that the harness owns")]
    pub fn view(&self, element: Element) -> View<'_> {
        let len = self.len(element);
        match &self.device {
            // SAFETY: the buffer holds as many elements; the harness waits for the stream before it is
            // changed or dropped.
            Some((_, address, ordinal)) => unsafe { View::device(*address, len, element, *ordinal) },
            // SAFETY: within `host`, which is borrowed.
            None => unsafe { View::host_raw(self.host.as_ptr().add(self.offset), len, element) },
        }
    }

    #[expect(unsafe_code, reason = "views of memory that the harness owns")]
    pub fn view_mut(&mut self, element: Element) -> ViewMut<'_> {
        let len = self.len(element);
        match &self.device {
            // SAFETY: as in `view`, and the room is borrowed exclusively.
            Some((_, address, ordinal)) => unsafe { ViewMut::device(*address, len, element, *ordinal) },
            // SAFETY: within `host`, which is borrowed exclusively.
            None => unsafe { ViewMut::host_raw(self.host.as_mut_ptr().add(self.offset), len, element) },
        }
    }

    /// The one f32 that it holds, as an argument read on the device.
    #[expect(unsafe_code, reason = "views of memory that the harness owns")]
    pub fn scalar(&self) -> ScalarArg<'_> {
        match &self.device {
            // SAFETY: the buffer holds one f32 and stays until the stream has been waited for.
            Some((_, address, ordinal)) => unsafe { ScalarArg::device(*address, *ordinal) },
            None => {
                let bytes = &self.host[self.offset..self.offset + 4];
                f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into()
            }
        }
    }

    /// Starts to poison all but the first `kept` bytes of a device buffer.
    #[expect(unsafe_code, reason = "fills memory that the harness owns")]
    pub fn poison_behind(device: Option<(DevicePtr, u64)>, kept: u64, stream: &Stream) -> Result<(), Error> {
        let Some((address, bytes)) = device.filter(|(_, bytes)| *bytes > kept) else { return Ok(()) };
        // SAFETY: within the buffer, which stays until the stream has been waited for.
        unsafe { stream.fill_async(address.offset(kept), POISON, (bytes - kept) as usize) }
    }

    /// Where it lies on a device, and how many bytes it has.
    pub fn on_device(&self) -> Option<(DevicePtr, u64)> {
        self.device.as_ref().map(|(_, address, _)| (DevicePtr(*address), self.bytes as u64))
    }

    #[expect(unsafe_code, reason = "a workspace in memory that the harness owns")]
    pub fn workspace(&mut self, bench: &Bench) -> Result<Workspace<'_>, Error> {
        let (address, bytes) = (self.address(), self.bytes as u64);
        match bench {
            Bench::Cpu(_) => Ok(Workspace::from_host(self.content_mut())),
            // SAFETY: the buffer has as many bytes, is borrowed exclusively, and stays until the stream has
            // been waited for.
            Bench::Gpu(gpu) => unsafe { Workspace::from_device(address, bytes, &gpu.device) },
        }
    }
}

/// A raw stream handle as a call takes it.
pub fn handle(stream: &Stream) -> u64 {
    stream.raw().0.addr() as u64
}

/// A matrix with padding behind all rows but the last: poison.
pub fn strided(values: &[f64], width: usize, stride: usize, dtype: DType) -> Vec<u8> {
    let size = dtype.bytes();
    let rows = values.len() / width;
    let mut bytes = vec![POISON; if rows == 0 { 0 } else { ((rows - 1) * stride + width) * size }];
    for (row, values) in values.chunks(width).enumerate() {
        bytes[row * stride * size..][..width * size].copy_from_slice(&encode(values, dtype));
    }
    bytes
}

/// Values as the bytes of a type, rounded to it.
pub fn encode(values: &[f64], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|&x| (x as f32).to_ne_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| f16::from_f64(x).to_ne_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&x| bf16::from_f64(x).to_ne_bytes()).collect(),
    }
}

/// Values of a type from its bytes.
pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        DType::F32 => {
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
        DType::F16 => halves().map(|b| f16::from_ne_bytes(b).to_f64()).collect(),
        DType::Bf16 => halves().map(|b| bf16::from_ne_bytes(b).to_f64()).collect(),
    }
}

/// The bytes of f32 values.
pub fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_outside_a_buffer_are_noticed() {
        for (bytes, align) in [(0, 4), (7, 2), (1000, 16), (512, 256)] {
            let mut room = Room::of(&Bench::cpu(), "a buffer", &vec![1; bytes], align).unwrap();
            let address = room.host.as_ptr().addr() + room.offset;
            assert!(address.is_multiple_of(align) && (align == 256 || !address.is_multiple_of(2 * align)));
            assert_eq!(room.get(None).unwrap(), vec![1; bytes]);
            for at in
                [room.offset - 1, room.offset - GUARD, room.offset + bytes, room.offset + bytes + GUARD - 1]
            {
                room.host[at] = 0;
                let error = room.get(None).unwrap_err();
                assert!(error.contains("a buffer") && error.contains("written to"), "{error}");
                room.host[at] = FENCE;
            }
            room.get(None).unwrap();
        }
    }

    #[test]
    fn a_changed_input_is_noticed() {
        let mut room = Room::of(&Bench::cpu(), "an input", &[1, 2, 3], 1).unwrap();
        room.unchanged(None, &[1, 2, 3]).unwrap();
        room.content_mut()[1] = 0;
        assert!(room.unchanged(None, &[1, 2, 3]).unwrap_err().contains("an input"));
    }

    #[test]
    fn padding_between_rows_is_nan_and_there_is_none_behind_the_last() {
        let bytes = strided(&[1.0, 2.0, 3.0, 4.0], 2, 3, DType::F32);
        let values = decode(&bytes, DType::F32);
        assert_eq!(values.len(), 5);
        assert!(values[2].is_nan() && values[3..] == [3.0, 4.0]);
    }
}
