//! Writing a database in one pass.

use std::io::{BufWriter, Seek, SeekFrom, Write};

use crate::error::Result;
use crate::format::{
    BUCKET_HEADER, FREELIST, INLINE_BYTES_MAX, IS_BUCKET, META, Meta, PAGE_BYTES, PageHeader,
};
use crate::tree::{Finished, Pages, Tree};

/// The page after the two meta pages.
const FREELIST_PAGE: u64 = 2;
/// Bytes given to the file at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes a database: buckets in ascending order of name, and in each the keys in ascending order.
///
/// The file is of no use before [`finish`](Writer::finish).
pub struct Writer<W: Write + Seek> {
    pages: Pages<BufWriter<W>>,
    root: Tree,
    bucket: Option<(Vec<u8>, Tree)>,
}

impl<W: Write + Seek> Writer<W> {
    /// A writer to `file`, from its start.
    pub fn new(mut file: W) -> Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, file);
        // The meta pages come last, when it is known what they say.
        file.write_all(&[0; 2 * PAGE_BYTES])?;
        let mut freelist = vec![0; PAGE_BYTES];
        let header = PageHeader {
            id: FREELIST_PAGE,
            flags: FREELIST,
            count: 0,
            overflow: 0,
        };
        freelist[..header.encode().len()].copy_from_slice(&header.encode());
        file.write_all(&freelist)?;
        Ok(Writer {
            pages: Pages {
                file,
                next: FREELIST_PAGE + 1,
            },
            root: Tree::default(),
            bucket: None,
        })
    }

    /// Ends the bucket before and begins `name`.
    ///
    /// Errors: [`Error::Order`](crate::Error::Order) when the name is not after the one before.
    pub fn bucket(&mut self, name: &[u8]) -> Result<()> {
        self.end_bucket()?;
        self.bucket = Some((name.to_vec(), Tree::default()));
        Ok(())
    }

    /// Adds a pair to the bucket.
    ///
    /// Errors: [`Error::Order`](crate::Error::Order) when the key is not after the one before, or
    /// there is no bucket; [`Error::KeyLength`](crate::Error::KeyLength).
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match &mut self.bucket {
            Some((_, tree)) => tree.push(&mut self.pages, key, value, 0),
            None => Err(crate::Error::Order),
        }
    }

    /// Writes what is left. Returns the file, which is not synced, and its length.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.end_bucket()?;
        let root = std::mem::take(&mut self.root);
        let root = match root.finish(&mut self.pages)? {
            Finished::Leaf(leaf) => Tree::write_leaf(&mut self.pages, &leaf)?,
            Finished::Root(root) => root,
        };
        let pages = self.pages.next;
        let mut file = self
            .pages
            .file
            .into_inner()
            .map_err(|error| error.into_error())?;
        file.seek(SeekFrom::Start(0))?;
        for id in 0..2 {
            let header = PageHeader {
                id,
                flags: META,
                count: 0,
                overflow: 0,
            };
            let meta = Meta {
                page_bytes: PAGE_BYTES as u32,
                root,
                freelist: FREELIST_PAGE,
                pages,
                txid: id,
            };
            let mut page = Vec::with_capacity(PAGE_BYTES);
            page.extend(header.encode());
            page.extend(meta.encode());
            page.resize(PAGE_BYTES, 0);
            file.write_all(&page)?;
        }
        file.flush()?;
        Ok((file, pages * PAGE_BYTES as u64))
    }

    fn end_bucket(&mut self) -> Result<()> {
        let Some((name, tree)) = self.bucket.take() else {
            return Ok(());
        };
        let mut value = vec![0; BUCKET_HEADER];
        match tree.finish(&mut self.pages)? {
            Finished::Leaf(leaf) if leaf.bytes() <= INLINE_BYTES_MAX => {
                value.extend(leaf.encode(0));
            }
            Finished::Leaf(leaf) => {
                let root = Tree::write_leaf(&mut self.pages, &leaf)?;
                value[..8].copy_from_slice(&root.to_le_bytes());
            }
            Finished::Root(root) => value[..8].copy_from_slice(&root.to_le_bytes()),
        }
        self.root.push(&mut self.pages, &name, &value, IS_BUCKET)
    }
}
