# Completion of virsh-postcopy in bash: it answers itself what comes next, as virsh does.  Under the name of virsh
# that is what virsh's own file asks for, too.

_virsh_postcopy()
{
    local words=("${COMP_WORDS[@]}") cword=$COMP_CWORD given=() at=1
    # a URI is one word
    declare -F _get_comp_words_by_ref >/dev/null && _get_comp_words_by_ref -n "\"'><=;|&(:" -w words -i cword
    local cur=${words[cword]}
    while [ "$at" -lt "$cword" ]; do
        case ${words[at]} in
            -c|--connect) given+=(-c "${words[at + 1]}"); at=$((at + 2)) ;;
            -r|--readonly) given+=(-r); at=$((at + 1)) ;;
            -*) at=$((at + 1)) ;;
            *) break ;;
        esac
    done
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$("$1" -q "${given[@]}" complete -- "${words[@]:at:cword - at + 1}" 2>/dev/null)" -- "$cur"))
    declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
    return 0
} &&
complete -o default -o filenames -F _virsh_postcopy virsh-postcopy
