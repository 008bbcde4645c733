# `make` lists what there is to make.

CARGO ?= cargo
# Where all-MiniLM-L6-v2 is; scripts/minilm.sh fetches it. The tests look there too.
MINILM := $(or $(WARPWEFT_MINILM),target/models/minilm)
# Not --package: that would choose other features for what the tests build too, and build it twice.
COMPILE_MODEL = $(CARGO) run --quiet --release --bin compile-model --
# Mesa's layer that chooses devices complains where there is no desktop; it is not needed here.
export NODEVICE_SELECT = 1

.PHONY: help demo demo-embed test test-drivers check bench build adapter model chromium

help:
	@echo "make demo    compile the language model that comes with the project and let it write"
	@echo "make demo-embed  fetch and compile all-MiniLM-L6-v2 and embed three sentences"
	@echo "make test    all tests; fetches all-MiniLM-L6-v2, a software driver if there is no adapter, and Chromium"
	@echo "make test-drivers  the same, and Chromium's own software driver as a second adapter"
	@echo "make check   formatting, lints, documentation"
	@echo "make bench   measure both models on this machine"
	@echo "make build   only the command, target/release/compile-model"

build:
	@command -v $(CARGO) >/dev/null || { echo "Install Rust first, with rustup." >&2; exit 1; }
	$(CARGO) build --release --bin compile-model

adapter: build
	@scripts/adapter.sh $(COMPILE_MODEL)

model:
	@mkdir -p target
	@scripts/minilm.sh $(MINILM)

demo: adapter
	@mkdir -p target
	$(COMPILE_MODEL) build demo/rustdoc-lm/model -o target/rustdoc-lm.weft
	$(COMPILE_MODEL) run target/rustdoc-lm.weft --prompt-file demo/rustdoc-lm/prompt.md --max-tokens 120

demo-embed: adapter model
	$(COMPILE_MODEL) build $(MINILM) -o target/minilm.weft
	$(COMPILE_MODEL) embed target/minilm.weft \
	  --text "A cat sat on the mat." \
	  --text "A kitten was lying on the rug." \
	  --text "The central bank raised its interest rate."

chromium:
	@scripts/chromium.sh

test: adapter model chromium
	$(CARGO) test --workspace --release

# A second driver, which comes with Debian's Chromium: subgroups of four, no f16. It is slow, so it is not part of `test`.
SWIFTSHADER ?= /usr/lib/chromium/vk_swiftshader_icd.json
test-drivers: adapter model chromium
	@test -f $(SWIFTSHADER) || { echo "No SwiftShader in $(SWIFTSHADER); name its vk_swiftshader_icd.json in SWIFTSHADER." >&2; exit 1; }
	VK_ADD_DRIVER_FILES=$(SWIFTSHADER) $(CARGO) test --workspace --release

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --release -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps --release

bench: adapter model
	$(COMPILE_MODEL) build demo/rustdoc-lm/model -o target/rustdoc-lm.weft
	$(COMPILE_MODEL) bench target/rustdoc-lm.weft
	$(COMPILE_MODEL) build $(MINILM) -o target/minilm-f16.weft --weights f16
	$(COMPILE_MODEL) bench target/minilm-f16.weft --batch 32 --tokens 128
	$(COMPILE_MODEL) bench target/minilm-f16.weft --batch 1 --tokens 16 --repeat 30
