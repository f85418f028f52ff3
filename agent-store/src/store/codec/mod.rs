//! Columns in bytes. Numbers go through pco, which measured best of what is maintained (research/performance.md §3): its
//! integers are bit-packed after delta coding, entropy coded, and decoded at 2 to 3 ns each.

pub(super) mod floats;
pub(super) mod histograms;
pub(super) mod times;

use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec, PagingSpec};

/// How hard to try: a block that will soon be merged is not worth much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    Fast,
    Full,
}

/// More than a block can hold of one series; what claims more is malformed.
const MAX_NUMBERS: usize = 1 << 24;

fn pack<T: Number>(numbers: &[T], effort: Effort, delta: DeltaSpec, mode: ModeSpec, out: &mut Vec<u8>) {
    let config = ChunkConfig::default()
        .with_compression_level(if effort == Effort::Fast { 4 } else { 8 })
        .with_delta_spec(delta)
        .with_mode_spec(mode)
        .with_paging_spec(PagingSpec::EqualPagesUpTo(MAX_NUMBERS));
    let start = out.len();
    let file = FileCompressor::default();
    let written = file.write_header(&mut *out).map(|_| ()).and_then(|()| {
        let mut chunk = file.chunk_compressor(numbers, &config)?;
        chunk.write_meta(&mut *out)?;
        chunk.write_page(0, &mut *out)?;
        Ok(())
    });
    // Writing to memory cannot fail, and the settings are constants: an empty column is the answer to the impossible.
    if written.is_err() {
        out.truncate(start);
    }
}

fn unpack<T: Number>(data: &[u8], into: &mut [T]) -> Option<()> {
    let (file, rest) = FileDecompressor::new(data).ok()?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).ok()?;
    let mut page = chunk.page_decompressor(rest, into.len()).ok()?;
    page.read(into).ok()?.finished.then_some(())
}
