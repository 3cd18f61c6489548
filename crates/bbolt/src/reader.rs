//! Finding buckets and walking them, page by page.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::{
    BRANCH, BRANCH_ELEMENT, BUCKET_HEADER, IS_BUCKET, LEAF, LEAF_ELEMENT, Meta, PAGE_HEADER,
    PageHeader, u32_at, u64_at,
};

/// The deepest tree that is followed: far deeper than any file can make one.
pub(crate) const DEPTH_MAX: usize = 64;
/// Where the second meta page may begin when the first is damaged: page sizes are powers of two.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=20;

/// A database file, open for reading. Nothing in the file is trusted.
#[derive(Debug)]
pub struct Reader {
    file: File,
    pub(crate) meta: Meta,
}

/// A page with its overflow.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) id: u64,
    pub(crate) header: PageHeader,
    bytes: Bytes,
}

/// An entry of a leaf.
pub(crate) struct LeafEntry {
    pub(crate) flags: u32,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}

impl Reader {
    /// Reads the meta pages of `file`; what follows the database in the file does not matter.
    ///
    /// Errors: [`Error::Format`] when neither meta page is whole, [`Error::Corrupt`] when the file
    /// is shorter than they say.
    pub fn open(file: File) -> Result<Reader> {
        let length = file.metadata()?.len();
        let meta = find_meta(&file)?;
        if meta.pages.saturating_mul(meta.page_bytes.into()) > length {
            let problem = format!(
                "the file has {length} bytes, where {} pages of {} were written: it is cut short",
                meta.pages, meta.page_bytes
            );
            return Err(Error::corrupt(0, problem));
        }
        Ok(Reader { file, meta })
    }

    /// Bytes of the database, without what may follow it in the file.
    pub fn size(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// The names of the buckets, in order.
    pub fn buckets(&self) -> Result<Vec<Bytes>> {
        let mut cursor = self.walk(Page::read(self, self.meta.root)?)?;
        let mut names = Vec::new();
        while let Some(entry) = cursor.next_entry()? {
            if entry.flags & IS_BUCKET != 0 {
                names.push(entry.key);
            }
        }
        Ok(names)
    }

    /// Walks the bucket `name`; none when there is no such bucket.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Cursor<'_>>> {
        let mut cursor = self.walk(Page::read(self, self.meta.root)?)?;
        while let Some(entry) = cursor.next_entry()? {
            if entry.key == name && entry.flags & IS_BUCKET != 0 {
                return self.walk(self.bucket_root(&entry)?).map(Some);
            }
        }
        Ok(None)
    }

    /// The root page of a bucket, which may lie inside its entry.
    pub(crate) fn bucket_root(&self, entry: &LeafEntry) -> Result<Page> {
        match u64_at(&entry.value, 0) {
            Some(0) if entry.value.len() >= BUCKET_HEADER => {
                Page::new(0, entry.value.slice(BUCKET_HEADER..))
            }
            Some(root) if root != 0 => Page::read(self, root),
            _ => Err(Error::corrupt(0, "a bucket without a root")),
        }
    }

    fn walk(&self, root: Page) -> Result<Cursor<'_>> {
        let mut cursor = Cursor {
            reader: self,
            path: Vec::new(),
            last: None,
        };
        cursor.descend(root)?;
        Ok(cursor)
    }
}

fn find_meta(file: &File) -> Result<Meta> {
    let read = |at: u64| -> Result<Meta> {
        let mut page = [0; 128];
        match file.read_exact_at(&mut page, at) {
            Ok(()) => Meta::decode(&page),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::Format("too short"))
            }
            Err(error) => Err(error.into()),
        }
    };
    let first = match read(0) {
        Ok(meta) => meta,
        Err(first) => {
            return PAGE_SIZES
                .filter_map(|shift| read(1 << shift).ok())
                .next()
                .ok_or(first);
        }
    };
    match read(first.page_bytes.into()) {
        Ok(second) if second.txid > first.txid => Ok(second),
        _ => Ok(first),
    }
}

impl Page {
    /// Reads page `id` and its overflow.
    pub(crate) fn read(reader: &Reader, id: u64) -> Result<Page> {
        let (pages, page_bytes) = (reader.meta.pages, u64::from(reader.meta.page_bytes));
        if id < 2 || id >= pages {
            return Err(Error::corrupt(id, format!("outside of the {pages} pages")));
        }
        let mut bytes = vec![0; page_bytes as usize];
        reader.file.read_exact_at(&mut bytes, id * page_bytes)?;
        let overflow = u64::from(u32_at(&bytes, 12).unwrap_or_default());
        if id + overflow >= pages {
            let problem = format!("it goes on for {overflow} pages, past the end");
            return Err(Error::corrupt(id, problem));
        }
        if overflow > 0 {
            bytes.resize(((overflow + 1) * page_bytes) as usize, 0);
            let rest = &mut bytes[page_bytes as usize..];
            reader.file.read_exact_at(rest, (id + 1) * page_bytes)?;
        }
        let page = Page::new(id, bytes.into())?;
        if page.header.id != id {
            let problem = format!("it says that it is page {}", page.header.id);
            return Err(Error::corrupt(id, problem));
        }
        Ok(page)
    }

    fn new(id: u64, bytes: Bytes) -> Result<Page> {
        let header = PageHeader::decode(&bytes);
        let header = header.ok_or_else(|| Error::corrupt(id, "too short"))?;
        Ok(Page { id, header, bytes })
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.header.flags == LEAF
    }

    pub(crate) fn is_branch(&self) -> bool {
        self.header.flags == BRANCH
    }

    /// The entry at `index` of a leaf.
    pub(crate) fn leaf(&self, index: usize) -> Result<LeafEntry> {
        let at = PAGE_HEADER + LEAF_ELEMENT * index;
        let entry = || {
            let flags = u32_at(&self.bytes, at)?;
            let key_at = at.checked_add(u32_at(&self.bytes, at + 4)? as usize)?;
            let value_at = key_at.checked_add(u32_at(&self.bytes, at + 8)? as usize)?;
            let end = value_at.checked_add(u32_at(&self.bytes, at + 12)? as usize)?;
            (end <= self.bytes.len()).then(|| LeafEntry {
                flags,
                key: self.bytes.slice(key_at..value_at),
                value: self.bytes.slice(value_at..end),
            })
        };
        self.checked(index, entry())
    }

    /// The first key and the page of the child at `index` of a branch.
    pub(crate) fn branch(&self, index: usize) -> Result<(Bytes, u64)> {
        let at = PAGE_HEADER + BRANCH_ELEMENT * index;
        let entry = || {
            let key_at = at.checked_add(u32_at(&self.bytes, at)? as usize)?;
            let end = key_at.checked_add(u32_at(&self.bytes, at + 4)? as usize)?;
            let child = u64_at(&self.bytes, at + 8)?;
            (end <= self.bytes.len()).then(|| (self.bytes.slice(key_at..end), child))
        };
        self.checked(index, entry())
    }

    /// The pages that a freelist page names.
    pub(crate) fn free(&self) -> Result<Vec<u64>> {
        let (first, count) = match self.header.count {
            u16::MAX => (1, u64_at(&self.bytes, PAGE_HEADER).unwrap_or(u64::MAX)),
            count => (0, u64::from(count)),
        };
        let room = (self.bytes.len() - PAGE_HEADER) as u64 / 8 - first.min(1);
        if count > room {
            return Err(Error::corrupt(self.id, "a freelist longer than its page"));
        }
        let number = |index: u64| u64_at(&self.bytes, PAGE_HEADER + 8 * index as usize);
        Ok((first..first + count).filter_map(number).collect())
    }

    fn checked<T>(&self, index: usize, entry: Option<T>) -> Result<T> {
        entry.ok_or_else(|| Error::corrupt(self.id, format!("entry {index} is outside of it")))
    }
}

/// Walks the pairs of a bucket in order. Holds one page a level of the tree.
#[derive(Debug)]
pub struct Cursor<'a> {
    reader: &'a Reader,
    /// From the root down: a page and the entry that comes next.
    path: Vec<(Page, usize)>,
    /// Keys ascend, or a damaged tree could be walked for ever.
    last: Option<Bytes>,
}

impl Cursor<'_> {
    /// The next pair; none after the last.
    ///
    /// Errors: [`Error::Corrupt`] names the page.
    pub fn next_pair(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        Ok(self.next_entry()?.map(|entry| (entry.key, entry.value)))
    }

    pub(crate) fn next_entry(&mut self) -> Result<Option<LeafEntry>> {
        loop {
            let Some((page, next)) = self.path.last_mut() else {
                return Ok(None);
            };
            if *next >= usize::from(page.header.count) {
                self.path.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            if page.is_leaf() {
                let entry = page.leaf(index)?;
                if self.last.as_ref().is_some_and(|last| entry.key <= *last) {
                    let problem = format!("key {index} is out of order");
                    return Err(Error::corrupt(page.id, problem));
                }
                self.last = Some(entry.key.clone());
                return Ok(Some(entry));
            }
            let (_, child) = page.branch(index)?;
            let child = Page::read(self.reader, child)?;
            if child.header.count == 0 {
                return Err(Error::corrupt(child.id, "an empty page inside of a tree"));
            }
            self.descend(child)?;
        }
    }

    fn descend(&mut self, page: Page) -> Result<()> {
        if !page.is_leaf() && !page.is_branch() {
            let problem = format!("of kind {:#x}, not of a tree", page.header.flags);
            return Err(Error::corrupt(page.id, problem));
        }
        if self.path.len() >= DEPTH_MAX {
            return Err(Error::corrupt(page.id, "the tree leads in a circle"));
        }
        self.path.push((page, 0));
        Ok(())
    }
}
