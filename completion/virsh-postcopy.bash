# Completion of virsh-postcopy in bash; written by tools/completions.py.

_virsh_postcopy()
{
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb word ours=
    local file=/usr/share/bash-completion/completions/virsh
    # virsh's own, which asks the real virsh
    declare -F _virsh_complete >/dev/null || { [ -r "$file" ] && . "$file"; }
    COMPREPLY=()
    if declare -F _virsh_complete >/dev/null && declare -F _get_comp_words_by_ref >/dev/null; then
        _virsh_complete "$@"
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            migrate|migrate-start-postcopy|migrate-postcopy|domjobinfo|postcopy-check|postcopy-attach|postcopy-recover|postcopy-policy|nwfilter-define) verb=$word; break ;;
        esac
    done
    case $before in
        --postcopy-check) ours="off warn strict" ;;
        --postcopy-driver) ours="auto native qemu" ;;
        --postcopy-policy) ours="manual never after-precopy after: stalled predict" ;;
        --postcopy-recover) ours="never" ;;
    esac
    if [ -z "$ours" ]; then
        case $verb in
            migrate) ours="--enable-postcopy --postcopy-after --postcopy-policy --postcopy-check --postcopy-recover --postcopy-recover-bandwidth --postcopy-driver --postcopy-blocktime --postcopy-monitor-dir --postcopy-preempt --postcopy-release-ram --strict-exit" ;;
            migrate-start-postcopy) ours="--domain --strict-exit" ;;
            migrate-postcopy) ours="--strict-exit" ;;
            domjobinfo) ours="--postcopy" ;;
            postcopy-check) ours="--domain --desturi --probe --json" ;;
            postcopy-attach) ours="--domain --desturi --postcopy-policy --postcopy-recover --postcopy-recover-bandwidth --shadow --p2p --persistent --undefinesource --migrateuri --listen-address --dname --tls --postcopy-bandwidth --tls-destination --verbose --strict-exit" ;;
            postcopy-recover) ours="--domain --desturi --postcopy-recover --postcopy-recover-bandwidth --p2p --persistent --undefinesource --migrateuri --listen-address --dname --tls --postcopy-bandwidth --tls-destination --verbose --strict-exit" ;;
            postcopy-policy) ours="--domain --set --unset" ;;
            nwfilter-define) ours="--keep-uuid" ;;
            '') ours="migrate migrate-start-postcopy migrate-postcopy domjobinfo postcopy-check postcopy-attach postcopy-recover postcopy-policy nwfilter-define" ;;
        esac
    fi
    COMPREPLY+=($(compgen -W "$ours" -- "$cur"))
} &&
complete -o default -o filenames -F _virsh_postcopy virsh-postcopy
