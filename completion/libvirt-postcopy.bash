# Completion of libvirt-postcopy in bash; written by tools/completions.py.

_libvirt_postcopy()
{
    local cur=${COMP_WORDS[COMP_CWORD]} ours
    case ${COMP_WORDS[1]} in
        bindings) ours="--help --json --no-compile --library --qemu-library --api" ;;
        check) ours="--help --probe --json --list" ;;
        conformance) ours="--help --scenarios --qemu --release --accel --jobs --quick --record --dry-run --format --output --verbose --baseline --known-ok --strict --connect --domain --disruptive --check --json-schema --part --open --no-pairs --pairs-only" ;;
        migrations) ours="--help --json" ;;
        phases) ours="--help --dot" ;;
        policy) ours="--help" ;;
        *) ours="bindings check conformance migrations phases policy --help --version" ;;
    esac
    [ "$COMP_CWORD" -gt 1 ] || ours="bindings check conformance migrations phases policy --help --version"
    COMPREPLY=($(compgen -W "$ours" -- "$cur"))
} &&
complete -o default -F _libvirt_postcopy libvirt-postcopy
