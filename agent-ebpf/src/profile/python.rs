//! Frames of Python (CPython 3.11 to 3.13) of the thread that runs.
//!
//! The interpreter keeps them in a list of its own, innermost first, and calls its loop anew only where C code comes between
//! two of them. Such a run of frames ends with something that the loop keeps on the C stack: a `_PyCFrame` (3.11) or a frame
//! that stands for nothing else (since 3.12). By its address [`super::unwind`] knows the C frame that the run belongs to,
//! without symbols, and whatever the compiler has made of the loop.

use super::Stack;
use crate::settings::{FRAME_MASK, THREAD_REACH};
use agent_common::profile::{
    PYTHON_FRAMES, PYTHON_LAYOUTS as LAYOUTS, PythonLayout, RUNS_PYTHON, USER_FRAMES, python,
};
use aya_ebpf::{
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_loop, bpf_probe_read_user as read_bytes},
    },
    macros::map,
    maps::Array,
};

/// Versions of CPython that run here, with all their builds.
#[map]
static PYTHON_LAYOUTS: Array<PythonLayout> = Array::with_max_entries(LAYOUTS as u32, 0);

/// Threads and interpreters that are looked at, two reads each; a thread that is new is the first.
const THREADS: u32 = 512;
/// Words that hold what is read of a frame.
const WORDS: usize = 16;
const _: () = assert!(python::FRAME_BYTES <= WORDS * 8);

/// Where the walk is.
#[repr(C)]
pub struct Walk {
    /// The thread pointer that is looked for.
    id: u64,
    interpreter: u64,
    thread: u64,
    /// Frame, and `_PyCFrame` of 3.11.
    frame: u64,
    cframe: u64,
    /// Frames, and runs of them, so far.
    count: u32,
    runs: u32,
    end: u32,
    pad: u32,
    /// What was read of a frame and of a code object.
    words: [u64; WORDS],
    names: [u64; 4],
    /// Where each run ends on the C stack, ordered; then `u64::MAX`, if there is room.
    boundaries: [u64; PYTHON_FRAMES],
    /// Where each frame of the user begins.
    begins: [u64; USER_FRAMES],
}

impl Walk {
    /// Notes where the stack pointer is in a frame of the user, by its place in the record. For all processes: a choice would
    /// be one more for the verifier to follow through all ways of [`super::unwind`]; and by a number that it knows it would
    /// follow each of 128 frames.
    #[inline(always)]
    pub fn begins(&mut self, place: u32, sp: u64) {
        // SAFETY: the mask is that of the array's length.
        unsafe { *self.begins.get_unchecked_mut(place as usize & (USER_FRAMES - 1)) = sp };
    }

    #[inline(always)]
    fn set_boundary(&mut self, value: u64) {
        let at = self.runs as usize & (PYTHON_FRAMES - 1);
        // SAFETY: as above.
        unsafe { *self.boundaries.get_unchecked_mut(at) = value };
    }

    /// A word of the frame, by the offset of one of its bytes.
    #[inline(always)]
    fn word(&self, offset: u32) -> u64 {
        // SAFETY: as above.
        unsafe { *self.words.get_unchecked((offset >> 3) as usize & (WORDS - 1)) }
    }
}

/// What the callbacks get: on the stack is only what must be.
#[repr(C)]
struct Context {
    stack: *mut Stack,
    layout: *const PythonLayout,
}

/// Puts the frames of Python before those of the user. Not inlined: before 6.13 all of it shares 512 bytes of stack.
#[inline(never)]
pub fn walk(stack: &mut Stack, runtime: u64, layout: u32, thread_pointer: u64) {
    // Asked here and not by the caller, to whom all processes are then the same: what is different the verifier follows
    // through the unwinder once more.
    if runtime == 0 {
        return;
    }
    let Some(layout) = PYTHON_LAYOUTS.get_ptr(layout) else {
        return;
    };
    stack.python.id = thread_pointer;
    stack.python.count = 0;
    stack.python.runs = 0;
    stack.python.end = python::UNREADABLE as u32;
    let mut context = Context { stack, layout };
    // SAFETY: a value of a map stays valid for the program's run.
    if let Some(interpreter) = read(runtime + unsafe { (*layout).interpreters } as u64) {
        // SAFETY: as above, and for the next.
        unsafe {
            (*context.stack).python.interpreter = interpreter;
            (*context.stack).python.thread = 0;
            (*context.stack).python.frame = 0;
            (*context.stack).python.end = python::TOO_MANY_THREADS as u32;
        }
        // SAFETY: the callback takes what the kernel hands it, and the context outlives the call.
        unsafe { bpf_loop(THREADS, seek as *const () as *mut _, (&raw mut context).cast(), 0) };
        // SAFETY: as above.
        if unsafe { (*context.stack).python.end } == python::COMPLETE as u32 {
            // SAFETY: as above.
            unsafe { (*context.stack).python.end = python::TOO_DEEP as u32 };
            // SAFETY: as above.
            unsafe {
                bpf_loop(
                    PYTHON_FRAMES as u32,
                    step as *const () as *mut _,
                    (&raw mut context).cast(),
                    0,
                )
            };
        }
    }
    // SAFETY: as above.
    let stack = unsafe { &mut *context.stack };
    // Without room behind the last boundary it would take the place of the first: 128 frames may be as many runs.
    if (stack.python.runs as usize) < PYTHON_FRAMES {
        stack.python.set_boundary(u64::MAX);
    }
    stack.head.python = stack.python.count as u8;
    stack.head.python_end = stack.python.end as u8;
}

/// Marks the frames of the user that runs of Python frames belong to.
#[inline(never)]
pub fn mark(stack: &mut Stack) {
    if stack.head.python_end == python::NONE {
        return;
    }
    stack.python.runs = 0;
    let mut context = Context {
        stack,
        layout: core::ptr::null(),
    };
    // SAFETY: the callback takes what the kernel hands it, and the context outlives the call.
    unsafe {
        bpf_loop(
            USER_FRAMES as u32,
            marked as *const () as *mut _,
            (&raw mut context).cast(),
            0,
        )
    };
}

/// Looks at one frame of the user; 1 = it was the outermost, or all runs have theirs.
extern "C" fn marked(frame: u64, context: *mut Context) -> u64 {
    // SAFETY: what [`mark`] has made.
    let stack = unsafe { &mut *(*context).stack };
    if frame as u32 + 1 >= stack.head.user as u32 || stack.python.runs as usize >= PYTHON_FRAMES {
        return 1;
    }
    let run = stack.python.runs as usize & (PYTHON_FRAMES - 1);
    let place = stack.head.kernel as u32 + 2 * stack.head.python as u32 + frame as u32;
    let next = (place as usize + 1) & (USER_FRAMES - 1);
    let place = place & FRAME_MASK.load();
    // SAFETY: the masks are those of the arrays' lengths.
    unsafe {
        // What the interpreter's loop keeps on the stack lies in this frame.
        if *stack.python.boundaries.get_unchecked(run) < *stack.python.begins.get_unchecked(next) {
            *stack.frames.get_unchecked_mut(place as usize) |= RUNS_PYTHON;
            stack.python.runs += 1;
        }
    }
    0
}

/// Looks at one thread, or at the next interpreter; 1 = that was the last.
extern "C" fn seek(_: u64, context: *mut Context) -> u64 {
    // SAFETY: what [`walk`] has made.
    let (walk, layout) = unsafe { (&mut (*(*context).stack).python, &*(*context).layout) };
    walk.end = match sought(walk, layout) {
        Ok(()) => return 0,
        Err(end) => end,
    };
    1
}

#[inline(always)]
fn sought(walk: &mut Walk, layout: &PythonLayout) -> Result<(), u32> {
    const UNREADABLE: u32 = python::UNREADABLE as u32;
    if walk.thread == 0 {
        if walk.interpreter == 0 {
            return Err(if walk.end == python::COMPLETE as u32 {
                walk.end
            } else {
                python::NO_THREAD as u32
            });
        }
        walk.thread = read(walk.interpreter + layout.threads as u64).ok_or(UNREADABLE)?;
        walk.interpreter = read(walk.interpreter + layout.interpreter_next as u64).ok_or(UNREADABLE)?;
        return Ok(());
    }
    let id = read(walk.thread + layout.thread_id as u64).ok_or(UNREADABLE)?;
    if walk.id.wrapping_sub(id) <= THREAD_REACH.load() {
        walk.frame = read(walk.thread + layout.thread_frame as u64).ok_or(UNREADABLE)?;
        if layout.cframe_frame != u32::MAX {
            walk.cframe = walk.frame;
            walk.frame = read(walk.cframe + layout.cframe_frame as u64).ok_or(UNREADABLE)?;
        }
        if walk.frame != 0 {
            return Err(python::COMPLETE as u32);
        }
        // A thread has a state in each interpreter that it was in, and runs in one of them at most. If in none, it is still
        // one of Python's, whether or not all others are looked at.
        walk.end = python::COMPLETE as u32;
    }
    walk.thread = read(walk.thread + layout.thread_next as u64).ok_or(UNREADABLE)?;
    Ok(())
}

/// Takes one frame and goes to its caller; 1 = there is none.
extern "C" fn step(_: u64, context: *mut Context) -> u64 {
    // SAFETY: what [`walk`] has made.
    let (stack, layout) = unsafe { (&mut *(*context).stack, &*(*context).layout) };
    if stack.python.frame == 0 {
        stack.python.end = python::COMPLETE as u32;
        return 1;
    }
    if taken(stack, layout).is_none() {
        stack.python.end = python::UNREADABLE as u32;
        return 1;
    }
    0
}

#[inline(always)]
fn taken(stack: &mut Stack, layout: &PythonLayout) -> Option<()> {
    let walk = &mut stack.python;
    read_into(walk.words.as_mut_ptr(), python::FRAME_BYTES as u32, walk.frame)?;
    let byte = walk.word(layout.frame_entry) >> ((layout.frame_entry & 7) * 8) & 0xff;
    let is_entry = (byte == layout.entry as u64) as u64;
    let is_shim = is_entry & layout.shim as u64;
    let (mut code, mut detail) = (0, 0);
    if is_shim == 0 {
        code = walk.word(layout.frame_code);
        read_into(walk.names.as_mut_ptr(), 32, code + python::CODE_NAMES)?;
        let hash = read(walk.names[1] + python::STRING_HASH)?;
        let first = code + layout.code_instructions as u64;
        // Code units are of two bytes.
        let index = (walk.word(layout.frame_instruction).wrapping_sub(first) >> 1) as u32;
        detail = index as u64 | (python::fingerprint(&walk.names, hash) as u64) << 32;
    }
    if is_entry != 0 {
        let boundary = if is_shim != 0 { walk.frame } else { walk.cframe };
        walk.set_boundary(boundary);
        walk.runs += 1;
        if is_shim == 0 {
            walk.cframe = read(walk.cframe + layout.cframe_previous as u64)?;
        }
    }
    walk.frame = walk.word(layout.frame_previous);
    let place = stack.head.kernel as u32 + 2 * walk.count;
    walk.count += 1;
    let (first, second) = (place & FRAME_MASK.load(), (place + 1) & FRAME_MASK.load());
    // SAFETY: the mask is that of the array's length.
    unsafe {
        *stack.frames.get_unchecked_mut(first as usize) = code | is_entry;
        *stack.frames.get_unchecked_mut(second as usize) = detail;
    }
    Some(())
}

#[inline(always)]
fn read(address: u64) -> Option<u64> {
    // SAFETY: a helper that fails on what cannot be read.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}

#[inline(always)]
fn read_into(place: *mut u64, bytes: u32, address: u64) -> Option<()> {
    // SAFETY: the callers' arrays have so many bytes, which the verifier checks; the helper fails on what cannot be read.
    (unsafe { read_bytes(place.cast(), bytes, address as *const _) } == 0).then_some(())
}
