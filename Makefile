# `make` lists what there is to make.

CARGO ?= cargo
# Where the demo model is; scripts/minilm.sh fetches it. The tests look there too.
MINILM := $(or $(WARPWEFT_MINILM),target/models/minilm)
COMPILE_MODEL = $(CARGO) run --quiet --release --package compile-model --
# Mesa's layer that chooses devices complains where there is no desktop; it is not needed here.
export NODEVICE_SELECT = 1

.PHONY: help demo test check bench build adapter model

help:
	@echo "make demo    compile all-MiniLM-L6-v2 and embed three sentences"
	@echo "make test    all tests; fetches the demo model, and a software driver if there is no adapter"
	@echo "make check   formatting, lints, documentation"
	@echo "make bench   measure the demo model on this machine"
	@echo "make build   only the command, target/release/compile-model"

build:
	@command -v $(CARGO) >/dev/null || { echo "Install Rust first, with rustup." >&2; exit 1; }
	$(CARGO) build --release --package compile-model

adapter: build
	@scripts/adapter.sh $(COMPILE_MODEL)

model:
	@scripts/minilm.sh $(MINILM)

demo: adapter model
	$(COMPILE_MODEL) build $(MINILM) -o target/minilm.weft
	$(COMPILE_MODEL) embed target/minilm.weft \
	  --text "A cat sat on the mat." \
	  --text "A kitten was lying on the rug." \
	  --text "The central bank raised its interest rate."

test: adapter model
	$(CARGO) test --workspace --release

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --release -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps --release

bench: adapter model
	$(COMPILE_MODEL) build $(MINILM) -o target/minilm-f16.weft --weights f16
	$(COMPILE_MODEL) bench target/minilm-f16.weft --batch 32 --tokens 128
	$(COMPILE_MODEL) bench target/minilm-f16.weft --batch 1 --tokens 16 --repeat 30
