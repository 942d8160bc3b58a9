//! Models as files: what is written, what becomes of it when it is read again, and what is refused.

mod broken;
mod convert;
mod drawn;
mod gguf;
