//! Doubly linked lists inside a vector, so that the allocator's lists need neither `unsafe` nor an
//! allocation per node. An id is only ever used by the [`Bag`](crate::bag::Bag) that got it.

/// The end of a list.
pub(crate) const NIL: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    value: T,
    prev: u32,
    next: u32,
}

#[derive(Debug)]
pub(crate) struct Arena<T> {
    nodes: Vec<Node<T>>,
    vacant: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    pub head: u32,
    tail: u32,
}

impl List {
    pub const EMPTY: List = List { head: NIL, tail: NIL };

    pub fn is_empty(self) -> bool {
        self.head == NIL
    }
}

impl<T> Arena<T> {
    pub fn new() -> Arena<T> {
        Arena { nodes: Vec::new(), vacant: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> u32 {
        let node = Node { value, prev: NIL, next: NIL };
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    /// The caller has unlinked the node before.
    pub fn vacate(&mut self, id: u32) {
        self.vacant.push(id);
    }

    pub fn get(&self, id: u32) -> &T {
        &self.nodes[id as usize].value
    }

    pub fn get_mut(&mut self, id: u32) -> &mut T {
        &mut self.nodes[id as usize].value
    }

    pub fn next(&self, id: u32) -> u32 {
        self.nodes[id as usize].next
    }

    pub fn push_back(&mut self, list: &mut List, id: u32) {
        self.nodes[id as usize].prev = list.tail;
        self.nodes[id as usize].next = NIL;
        match list.tail {
            NIL => list.head = id,
            tail => self.nodes[tail as usize].next = id,
        }
        list.tail = id;
    }

    pub fn unlink(&mut self, list: &mut List, id: u32) {
        let Node { prev, next, .. } = self.nodes[id as usize];
        match prev {
            NIL => list.head = next,
            prev => self.nodes[prev as usize].next = next,
        }
        match next {
            NIL => list.tail = prev,
            next => self.nodes[next as usize].prev = prev,
        }
    }
}
