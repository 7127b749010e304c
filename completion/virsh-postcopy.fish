# Completion of virsh-postcopy in fish, also under the name of virsh: both answer themselves what comes next.

function __virsh_postcopy
    set -l words (commandline -opc) (commandline -ct)
    set -l given
    set -l at 2
    while test $at -lt (count $words)
        switch $words[$at]
            case -c --connect
                set given $given -c $words[(math $at + 1)]
                set at (math $at + 2)
            case -r --readonly
                set given $given -r
                set at (math $at + 1)
            case '-*'
                set at (math $at + 1)
            case '*'
                break
        end
    end
    $words[1] -q $given complete -- $words[$at..-1] 2>/dev/null
end

for name in virsh-postcopy virsh
    complete -c $name -a '(__virsh_postcopy)'
end
