//! Looking at every page: is it used once, is it where its keys belong?
//!
//! Source: bbolt's `tx_check.go`, whose rules these are.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::{FREELIST, IS_BUCKET, NO_FREELIST};
use crate::reader::{DEPTH_MAX, Page, Reader};

/// Most problems that are told: one damaged page may make many.
const PROBLEMS_MAX: usize = 100;

/// A set of page numbers.
struct PageSet(Vec<u64>);

impl PageSet {
    fn new(pages: u64) -> PageSet {
        PageSet(vec![0; pages.div_ceil(64) as usize])
    }

    /// Adds a page; says whether it was there already, or is none of the file's.
    fn add(&mut self, page: u64) -> bool {
        match self.0.get_mut((page / 64) as usize) {
            Some(word) => {
                let bit = 1 << (page % 64);
                let was_there = *word & bit != 0;
                *word |= bit;
                was_there
            }
            None => true,
        }
    }

    fn has(&self, page: u64) -> bool {
        let word = self.0.get((page / 64) as usize);
        word.is_some_and(|word| word & (1 << (page % 64)) != 0)
    }
}

struct Check<'a> {
    reader: &'a Reader,
    free: PageSet,
    reached: PageSet,
    problems: Vec<Error>,
}

impl Reader {
    /// Looks at all pages and returns what is wrong with them; nothing is when the file is as bbolt
    /// wants it. Memory: two bits a page.
    pub fn check(&self) -> Vec<Error> {
        let pages = self.meta.pages;
        let mut check = Check {
            reader: self,
            free: PageSet::new(pages),
            reached: PageSet::new(pages),
            problems: Vec::new(),
        };
        if let Err(error) = check.run() {
            check.problems.push(error);
        }
        check.problems
    }
}

impl Check<'_> {
    fn run(&mut self) -> Result<()> {
        self.reached.add(0);
        self.reached.add(1);
        self.freelist()?;
        let root = Page::read(self.reader, self.reader.meta.root)?;
        self.tree(root, None, None, 0);
        // etcd does not write the list: then a page that nothing leads to is a free one.
        if self.reader.meta.freelist == NO_FREELIST {
            return Ok(());
        }
        let pages = self.reader.meta.pages;
        for page in 0..pages {
            if !self.reached.has(page) && !self.free.has(page) {
                self.problem(page, "neither used nor free");
            }
        }
        Ok(())
    }

    fn freelist(&mut self) -> Result<()> {
        let id = self.reader.meta.freelist;
        if id == NO_FREELIST {
            return Ok(());
        }
        let page = Page::read(self.reader, id)?;
        if page.header.flags != FREELIST {
            return Err(Error::corrupt(id, "not a freelist"));
        }
        self.reach(&page);
        for free in page.free()? {
            if self.free.add(free) {
                self.problem(free, "free twice, or not a page of the file");
            }
        }
        Ok(())
    }

    fn problem(&mut self, page: u64, problem: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Error::corrupt(page, problem));
        }
    }

    /// Notes that `page` is used; says whether it was used before.
    fn reach(&mut self, page: &Page) -> bool {
        let mut again = false;
        for id in page.id..=page.id + u64::from(page.header.overflow) {
            again |= self.reached.add(id);
            if self.free.has(id) {
                self.problem(id, "used, and in the list of free pages");
            }
        }
        if again {
            self.problem(page.id, "used twice");
        }
        again
    }

    /// Follows a tree whose keys must be in `from ..< to`.
    fn tree(&mut self, page: Page, from: Option<Bytes>, to: Option<Bytes>, depth: usize) {
        // A root inside a bucket's entry has no page of its own.
        if page.id != 0 && self.reach(&page) {
            return;
        }
        if depth >= DEPTH_MAX || !(page.is_leaf() || page.is_branch()) {
            self.problem(page.id, "not a page of a tree");
            return;
        }
        if let Err(error) = self.entries(&page, from, to, depth) {
            self.problems.push(error);
        }
    }

    fn entries(
        &mut self,
        page: &Page,
        from: Option<Bytes>,
        to: Option<Bytes>,
        depth: usize,
    ) -> Result<()> {
        let count = usize::from(page.header.count);
        let mut before: Option<Bytes> = None;
        for index in 0..count {
            let (key, child, bucket) = if page.is_leaf() {
                let entry = page.leaf(index)?;
                let bucket =
                    (entry.flags & IS_BUCKET != 0).then(|| self.reader.bucket_root(&entry));
                (entry.key, None, bucket)
            } else {
                let (key, child) = page.branch(index)?;
                (key, Some(child), None)
            };
            let first = before.is_none() && from.as_ref().is_none_or(|from| *from <= key);
            let ordered = first || before.as_ref().is_some_and(|before| *before < key);
            if !ordered || to.as_ref().is_some_and(|to| key >= *to) || key.is_empty() {
                self.problem(page.id, format!("key {index} is out of order"));
            }
            if let Some(child) = child {
                let next = match index + 1 < count {
                    true => Some(page.branch(index + 1)?.0),
                    false => to.clone(),
                };
                let child = Page::read(self.reader, child)?;
                self.tree(child, Some(key.clone()), next, depth + 1);
            }
            if let Some(root) = bucket {
                self.tree(root?, None, None, depth + 1);
            }
            before = Some(key);
        }
        Ok(())
    }
}
